"""The demo model, a real one, from the package index: its tokens and its English, of prompts that
the worker prefills itself and of prompts that are prefilled elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from dynamo_cli.models import catalog, hub
from tests.api.conftest import FLOAT32
from tests.api.test_tokens import offline, served
from tests.support.server import SMALL, Server

pytestmark = pytest.mark.engine

ROOM = ("--kv-cache-memory-bytes", str(1 << 28), *SMALL[2:])
STEP_TOKENS = 256
"""Most tokens of a step. An engine computes as many before it serves: most of its start."""

SHAPE = (
    *(*ROOM, *FLOAT32, "--block-size", "32", "--max-model-len", "2048"),
    *("--max-num-batched-tokens", str(STEP_TOKENS)),
)
LOCAL_TOKENS = 8
"""Most tokens of a prompt that the worker prefills itself: two of `test_tokens.PROMPTS` are as
short. The longest is cut into steps."""
AWAY = (
    *("--prefill-workers", "1", "--max-local-prefill-length", str(LOCAL_TOKENS)),
    *("--max-prefill-queue-size", "100"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where it is, in caches of its own, which servers have too."""
    usual = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("HF_HOME", raising=False)
        patch.delenv("HF_HUB_CACHE", raising=False)
        # What vLLM knows of model classes takes 10 s to find out anew.
        patch.setenv("VLLM_CACHE_ROOT", os.environ.get("VLLM_CACHE_ROOT", str(usual / "vllm")))
        yield Path(catalog.resolve("demo", lambda _: None).path)


@pytest.fixture(scope="module")
def demo(folder: Path) -> Iterator[Server]:
    with Server(*SHAPE, *AWAY, model="demo") as server:
        yield server


def test_the_folder_is_like_that_of_the_hub(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["tie_word_embeddings"]) == ("bfloat16", True)
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.lock"}
    tokens = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("in 1984").tokens
    assert tokens == ["in", "Ġ", "1", "9", "8", "4"]


def test_what_it_says_has_the_tokens_of_vllm(demo: Server, folder: Path) -> None:
    """Streams, wherever prompts are prefilled; `test_tiny` compares whole answers too."""
    import openai

    expected = offline(str(folder), max_num_batched_tokens=STEP_TOKENS, max_model_len=2048)
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        assert served(client, "demo", stream=True) == expected
    prefill = demo.snapshot()["prefill"]
    assert prefill["placements"]["local:short"] == 2
    assert prefill["placements"]["remote:long"] >= 3, prefill["placements"]
    assert prefill["fallbacks"] == {}


def test_it_speaks_english(demo: Server) -> None:
    import openai

    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=20,
            temperature=0,
        )
    (choice,) = answer.choices
    assert choice.message.content == "The capital of France is Paris."
    assert choice.finish_reason == "stop"
