import json
from pathlib import Path

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

from dynamo_cli.models import tiny
from dynamo_cli.models.checkpoint import bfloat16


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
    with safe_open(str(written(tmp_path / "m") / "model.safetensors"), "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        assert file.get_slice("lm_head.weight").get_dtype() == "BF16"
        embedding = file.get_tensor("model.embed_tokens.weight").float()
    assert shapes["model.layers.1.self_attn.k_proj.weight"] == (2 * 32, 64)
    assert shapes["model.layers.0.mlp.down_proj.weight"] == (64, 128)
    assert len(shapes) == 3 + 2 * 9
    assert 0.19 < float(embedding.std()) < 0.21


def test_transformers_renders_the_template(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(written(tmp_path / "m"))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": None}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even():
    values = np.array([1.0, -2.5, 1.00390625, 1.01171875, 1.005, 0.0], np.float32)
    expected = [0x3F80, 0xC020, 0x3F80, 0x3F82, 0x3F81, 0x0000]
    assert bfloat16(values).tolist() == expected
