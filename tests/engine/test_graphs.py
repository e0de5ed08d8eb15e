"""An engine captures fewer CUDA graphs than vLLM would, and each step finds one that is near."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

import pytest

from tests.support.call import call

pytestmark = pytest.mark.engine

VLLMS_SIZES = [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]


def manager(sizes: list[int], mode: str, most: int) -> Any:
    """What vLLM's model runner makes, for steps of at most so many requests."""
    from vllm.config import CUDAGraphMode
    from vllm.v1.worker.gpu import cudagraph_utils

    config: Any = SimpleNamespace(
        scheduler_config=SimpleNamespace(max_num_seqs=most),
        parallel_config=SimpleNamespace(tensor_parallel_size=1),
        speculative_config=None,
        cache_config=SimpleNamespace(use_kda_recoverssm=False),
        compilation_config=SimpleNamespace(
            cudagraph_capture_sizes=sizes, max_cudagraph_capture_size=sizes[-1]
        ),
    )
    alone = SimpleNamespace(is_first_rank=True, is_last_rank=True)
    with (
        patch.object(cudagraph_utils, "get_pp_group", lambda: alone),
        patch.object(cudagraph_utils, "current_platform", MagicMock()),
    ):
        device: Any = "cpu"
        one = cudagraph_utils.ModelCudaGraphManager(config, device, CUDAGraphMode[mode], 1)
    one._graphs_captured = True
    return one


def graphs(sizes: list[int], mode: str, fewer: bool, most: int = 1024) -> dict[str, Any]:
    """How many graphs of each kind are captured, and the one that each step takes: its kind and
    number of tokens, or the kind NONE."""
    from dynamo_cli.engines.vllm.core import graphs as ours

    if fewer:
        ours.install()
    one = manager(sizes, mode, most)
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


@pytest.mark.parametrize("mode", ["FULL_AND_PIECEWISE", "FULL_DECODE_ONLY"])
@pytest.mark.parametrize("most", [3, 5, 12, 24, 100, 200])
def test_the_largest_step_that_only_decodes_has_its_graph(mode: str, most: int) -> None:
    sizes = sorted({size for size in VLLMS_SIZES if size <= 2 * most} | {most})
    decode = call(graphs, sizes, mode, True, most)["decode"]
    assert decode[most - 1] == ["FULL", most]
    assert all(kind == "FULL" for kind, _ in decode[:most])


def of_another_class() -> list[int]:
    """The sizes of a manager that has rules of its own."""
    from vllm.v1.worker.gpu import cudagraph_utils

    from dynamo_cli.engines.vllm.core import graphs as ours

    class Other(cudagraph_utils.ModelCudaGraphManager):  # type: ignore[misc]
        pass

    ours.install()
    with patch.object(cudagraph_utils, "ModelCudaGraphManager", Other):
        one = manager([1, 3, 9, 27], "FULL", 27)
    return sorted(desc.num_tokens for descs in one._capture_descs.values() for desc in descs)


def test_others_choose_by_their_own_rules() -> None:
    assert call(of_another_class) == [1, 3, 9, 27]


def chosen(options: list[str], mode: str, draft_tokens: int) -> bool:
    """Whether fewer graphs are captured with these options of the engine."""
    from dynamo_cli.config import EngineConfig
    from dynamo_cli.engines.vllm.core import graphs as ours
    from dynamo_cli.engines.vllm.options import arguments

    namespace = arguments.parse(EngineConfig("tiny", "tiny", ("tiny",), tuple(options)))
    compiled = namespace.compilation_config.compile_sizes
    config: Any = SimpleNamespace(
        performance_mode=mode,
        num_speculative_tokens=draft_tokens,
        compilation_config=SimpleNamespace(compile_sizes=compiled),
    )
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
        (["-cc.compile_sizes=[24]"], "balanced", 0, False),
        ([], "interactivity", 0, False),
        ([], "balanced", 3, False),
    ],
)
def test_what_the_user_chose_stays(
    options: list[str], mode: str, draft_tokens: int, fewer: bool
) -> None:
    assert call(chosen, options, mode, draft_tokens) is fewer


class Built(BaseException):
    """Instead of an engine."""


def in_an_engine(folder: str, options: list[str]) -> list[int]:
    """The steps between sizes that an engine has chosen by the time it is built."""
    from dynamo_cli.config import EngineConfig
    from dynamo_cli.engines.vllm.core import build, engine
    from dynamo_cli.engines.vllm.core import graphs as ours
    from dynamo_cli.models import tiny

    tiny.write(Path(folder))
    config = EngineConfig("tiny", folder, ("tiny",), ("--dtype", "float32", *options))
    with patch.object(build, "build", side_effect=Built), pytest.raises(Built):
        engine.VllmEngine(0, config)
    return list(ours.steps())


def test_engines_choose(tmp_path: Path) -> None:
    assert call(in_an_engine, str(tmp_path), []) == [16, 64]
    assert call(in_an_engine, str(tmp_path), ["--cudagraph-capture-sizes", "1", "2"]) == []


def in_a_rank(fewer: bool) -> list[int]:
    """The steps between sizes in a rank of an engine."""
    from dynamo_cli.engines.vllm.core import graphs as ours
    from dynamo_cli.engines.vllm.core import ranks

    with ExitStack() as stack:
        for module, name in ((ranks, "die_with"), (ranks, "_vllm_main"), (ranks.resume, "install")):
            stack.enter_context(patch.object(module, name))
        ranks._Rank(0, fewer_graphs=fewer)(vllm_config=None)
    return list(ours.steps())


@pytest.mark.parametrize(("fewer", "steps"), [(True, [16, 64]), (False, [])])
def test_ranks_choose_as_their_engine(fewer: bool, steps: list[int]) -> None:
    assert call(in_a_rank, fewer) == steps
