import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from dynamo_cli.models import tiny
from dynamo_cli.models.checkpoint import bfloat16
from tests.support.call import call


def written(folder: Path) -> Path:
    folder.mkdir()
    tiny.write(folder)
    return folder


def test_two_copies_are_the_same_to_the_byte(tmp_path):
    first, second = written(tmp_path / "a"), written(tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_any_text_goes_through_the_tokenizer_and_comes_back(tmp_path):
    tokenizer = Tokenizer.from_file(str(written(tmp_path / "m") / "tokenizer.json"))
    text = "Hello, wörld!\n\t 漢字 🙂 \x00 123  end "
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert len(tokenizer.encode("the capital of France").ids) < 10


def test_special_tokens_are_where_the_config_says(tmp_path):
    folder = written(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.token_to_id("<|im_end|>") == config["eos_token_id"]
    assert tokenizer.encode("<|im_start|>").ids == [config["bos_token_id"]]
    assert tokenizer.get_vocab_size() == config["vocab_size"] == 1024


def test_weights_have_the_shapes_that_the_config_promises(tmp_path):
    content = (written(tmp_path / "m") / "model.safetensors").read_bytes()
    begins = 8 + int.from_bytes(content[:8], "little")
    tensors = json.loads(content[8:begins])
    shapes = {name: tuple(one["shape"]) for name, one in tensors.items() if "shape" in one}
    assert tensors["lm_head.weight"]["dtype"] == "BF16"
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (2 * 32, 64)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (64, 128)
    assert len(shapes) == 3 + 2 * 9
    first, last = tensors["model.embed_tokens.weight"]["data_offsets"]
    upper_halves = np.frombuffer(content[begins + first : begins + last], np.uint16)
    embedding = (upper_halves.astype(np.uint32) << 16).view(np.float32)
    assert 0.19 < float(embedding.std()) < 0.21


def rendered(folder: str, messages: list[dict[str, str | None]]) -> str:
    """What transformers makes of a chat, with the tokenizer of this folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@pytest.mark.engine
def test_transformers_renders_the_template(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": None}]
    assert call(rendered, str(written(tmp_path / "m")), messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even():
    values = np.array([1.0, -2.5, 1.00390625, 1.01171875, 1.005, 0.0], np.float32)
    expected = [0x3F80, 0xC020, 0x3F80, 0x3F82, 0x3F81, 0x0000]
    assert bfloat16(values).tolist() == expected
