"""An engine takes the cache size of an earlier one only if all that it depends on is the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.call import call

pytestmark = pytest.mark.engine


def config(**changed: Any) -> Any:
    values = {
        "share": 0.9,
        "length": 4096,
        "seqs": 256,
        "batch": 8192,
        "sizes": [1, 2],
        "role": None,
    }
    of = SimpleNamespace(**(values | changed))
    transfer = SimpleNamespace(kv_role=of.role) if of.role else None
    return SimpleNamespace(
        cache_config=SimpleNamespace(gpu_memory_utilization=of.share),
        model_config=SimpleNamespace(max_model_len=of.length),
        scheduler_config=SimpleNamespace(max_num_seqs=of.seqs, max_num_batched_tokens=of.batch),
        compilation_config=SimpleNamespace(cudagraph_capture_sizes=of.sizes),
        kv_transfer_config=transfer,
    )


CHANGES: list[dict[str, Any]] = [
    {"share": 0.5},
    {"length": 8192},
    {"seqs": 1024},
    {"batch": 2048},
    {"sizes": [1, 2, 4]},
    {"role": "kv_producer"},
]


def fingerprints(changes: list[dict[str, Any]]) -> list[str]:
    """Names of engines that differ only in what vLLM does not look at."""
    from dynamo_cli.engines.vllm.core import plans

    plans._of_vllm = lambda *args: "what vLLM looks at"
    return [plans.fingerprint(config(**changed), 0, 1) for changed in changes]


def test_another_size_is_another_plan() -> None:
    plain, again, *others = call(fingerprints, [{}, {}, *CHANGES])
    assert plain == again
    assert len({plain, *others}) == 1 + len(CHANGES), "all of them differ"


def is_asked() -> bool:
    from vllm.v1.worker import startup_plan

    from dynamo_cli.engines.vllm.core import plans

    plans.install()
    return startup_plan.compute_plan_fingerprint is plans.fingerprint


def test_vllm_asks_us() -> None:
    assert call(is_asked)
