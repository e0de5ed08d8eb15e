"""An engine captures fewer CUDA graphs than vLLM would, and each step finds one that is near."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.call import call

pytestmark = pytest.mark.engine

VLLMS_SIZES = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]


def manager(sizes: list[int], mode: str) -> Any:
    """What vLLM has made by the time it chooses graphs."""
    from vllm.config import CUDAGraphMode
    from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager

    one = object.__new__(CudaGraphManager)
    one.vllm_config = SimpleNamespace(
        speculative_config=None, cache_config=SimpleNamespace(use_kda_recoverssm=False)
    )
    one.compilation_config = SimpleNamespace(
        cudagraph_capture_sizes=sizes, max_cudagraph_capture_size=sizes[-1]
    )
    one.cudagraph_mode = CUDAGraphMode[mode]
    one.max_num_reqs, one.decode_query_len, one.varlen_decode = 1024, 1, False
    one.ubatch_runner, one.lora_capture_cases = None, [0]
    one._lora_dispatch_map, one._graphs_captured = {}, True
    one._candidates, one._capture_descs = {}, {}
    one._init_candidates()
    return one


def graphs(sizes: list[int], mode: str, fewer: bool) -> dict[str, Any]:
    """How many graphs of each kind are captured, and the one that each step takes: its kind and
    number of tokens, or the kind NONE."""
    from dynamo_cli.engines.vllm.core import graphs as ours

    if fewer:
        ours.install()
    one = manager(sizes, mode)
    steps = range(1, sizes[-1] + 2)
    decode = [one.dispatch(tokens, tokens, 1, 0) for tokens in steps]
    mixed = [one.dispatch(1, tokens, None, 0) for tokens in steps]
    return {
        "captured": {kind.name: len(found) for kind, found in one._capture_descs.items()},
        "decode": [(taken.cg_mode.name, taken.num_tokens) for taken in decode],
        "mixed": [(taken.cg_mode.name, taken.num_tokens) for taken in mixed],
        "unchanged": one.cudagraph_mode.name == mode
        and one.compilation_config.cudagraph_capture_sizes == sizes,
    }


def test_each_step_takes_a_graph_that_is_little_larger() -> None:
    all_, fewer = (call(graphs, VLLMS_SIZES, "FULL_AND_PIECEWISE", some) for some in (False, True))
    assert all_["captured"] == {"FULL": 51, "PIECEWISE": 51}
    assert fewer["captured"] == {"FULL": 36, "PIECEWISE": 14}
    for kind, steps, most in (("FULL", "decode", 15), ("PIECEWISE", "mixed", 63)):
        *found, too_large = fewer[steps]
        assert too_large[0] == "NONE"
        for tokens, (taken, size) in enumerate(found, 1):
            assert taken == kind
            assert 0 <= size - tokens <= most
            assert size < 2 * tokens or size == 1
    assert fewer["unchanged"]


@pytest.mark.parametrize(
    ("mode", "captured"),
    [
        ("FULL_DECODE_ONLY", {"FULL": 36}),
        ("FULL", {"FULL": 36}),
        ("PIECEWISE", {"PIECEWISE": 36}),
        ("NONE", {}),
    ],
)
def test_with_graphs_of_one_kind_there_is_one_list(mode: str, captured: dict[str, int]) -> None:
    found = call(graphs, VLLMS_SIZES, mode, True)
    assert found["captured"] == captured
    assert found["unchanged"]


@pytest.mark.parametrize(("largest", "kept"), [(16, 5), (24, 6), (40, 7), (1, 1)])
def test_the_largest_size_stays(largest: int, kept: int) -> None:
    sizes = [size for size in VLLMS_SIZES if size <= largest]
    found = call(graphs, sizes, "FULL_AND_PIECEWISE", True)
    assert found["captured"]["FULL"] == kept
    assert found["decode"][largest - 1] == ["FULL", largest]
    assert found["mixed"][largest - 1] == ["PIECEWISE", largest]


def chosen(options: list[str], mode: str, draft_tokens: int) -> bool:
    """Whether fewer graphs are captured with these options of the engine."""
    from dynamo_cli.config import EngineConfig
    from dynamo_cli.engines.vllm.core import graphs as ours
    from dynamo_cli.engines.vllm.options import arguments

    namespace = arguments.parse(EngineConfig("tiny", "tiny", ("tiny",), tuple(options)))
    config: Any = SimpleNamespace(performance_mode=mode, num_speculative_tokens=draft_tokens)
    return ours.chosen(namespace, config)


@pytest.mark.parametrize(
    ("options", "mode", "draft_tokens", "fewer"),
    [
        ([], "balanced", 0, True),
        (["--compilation-config", '{"cudagraph_mode": "FULL"}'], "balanced", 0, True),
        (["--cudagraph-capture-sizes", "1", "2"], "balanced", 0, False),
        (["--max-cudagraph-capture-size", "64"], "balanced", 0, False),
        (["-cc", '{"cudagraph_capture_sizes": [1, 2]}'], "balanced", 0, False),
        (["-cc.max_cudagraph_capture_size=64"], "balanced", 0, False),
        ([], "interactivity", 0, False),
        ([], "balanced", 3, False),
    ],
)
def test_what_the_user_chose_stays(
    options: list[str], mode: str, draft_tokens: int, fewer: bool
) -> None:
    assert call(chosen, options, mode, draft_tokens) is fewer


def in_an_engine() -> bool:
    """Whether vLLM makes its choice through us, in this release."""
    from vllm.v1.worker.gpu.cudagraph_utils import CudaGraphManager

    from dynamo_cli.engines.vllm.core import graphs as ours

    ours.install()
    return ours.installed() and CudaGraphManager._init_candidates is ours._init_candidates


def test_vllm_asks_us() -> None:
    assert call(in_an_engine)
