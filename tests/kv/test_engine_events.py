"""The processor's hashes equal those of a real engine's events, also with adapters and salts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.adapter import write
from tests.support.call import call
from tests.support.driver import result_of, tiny


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("adapter")
    return write(folder)


@pytest.mark.engine
def test_hashes_of_requests_equal_those_of_events(adapter: Path) -> None:
    result = result_of("tests.kv.engine_driver", tiny(), str(adapter), "7")
    assert result["wrong"] == []
    assert result["hits"] > 5_000  # some prompts were cached
    assert result["removed"] > 200  # and the cache was too small for all blocks
    assert result["parts"] > 100  # long prompts were hashed bit by bit
    # A million objects that all engines share stay shared. vLLM would look at each of them.
    assert result["thawed_by_the_end"] < 10_000


def names_of_blocks(path: str, numbers: list[int]) -> Any:
    """For adapters of one name and path with these numbers: the hashes of a prompt's block, by
    which the processor, the router and the engine with its host cache know it."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest
    from vllm.utils.hashing import sha256
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.request import Request

    from dynamo_cli.engines.vllm.core import adapter_keys
    from dynamo_cli.engines.vllm.core.events import sequence_hashes
    from dynamo_cli.kv import hashes

    adapter_keys.install()
    kv_cache_utils.init_none_hash(sha256)
    prompt, found = list(range(32)), []
    for number in (*numbers, 0):
        request = Request(
            "a",
            prompt,
            SamplingParams(max_tokens=1),
            None,
            lora_request=LoRARequest("it", number, path) if number else None,
            block_hasher=kv_cache_utils.get_request_block_hasher(32, sha256),
        )
        own = sequence_hashes(request, hashes.pack_tokens(prompt), 32)
        found.append([own[0], bytes(request.block_hashes[0]).hex()])
    return found


@pytest.mark.engine
def test_an_adapter_that_is_loaded_again_has_other_blocks() -> None:
    """The files in its folder may be others by then."""
    found = call(names_of_blocks, "/adapters/it", [1, 2, 1])
    first, second, again, without = map(tuple, found)
    assert first == again
    assert len({own for own, _ in (first, second, without)}) == 3
    assert len({engines for _, engines in (first, second, without)}) == 3
