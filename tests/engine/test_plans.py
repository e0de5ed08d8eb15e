"""An engine takes the cache size of an earlier one only if all that it depends on is the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

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


@pytest.mark.parametrize(
    "changed",
    [
        {"share": 0.5},
        {"length": 8192},
        {"seqs": 1024},
        {"batch": 2048},
        {"sizes": [1, 2, 4]},
        {"role": "kv_producer"},
    ],
    ids=str,
)
def test_another_size_is_another_plan(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamo_cli.engines.vllm.core import plans

    monkeypatch.setattr(plans, "_of_vllm", lambda *args: "what vLLM looks at")
    assert plans.fingerprint(config(), 0, 1) == plans.fingerprint(config(), 0, 1)
    assert plans.fingerprint(config(), 0, 1) != plans.fingerprint(config(**changed), 0, 1)


def test_vllm_asks_us() -> None:
    from vllm.v1.worker import startup_plan

    from dynamo_cli.engines.vllm.core import plans

    plans.install()
    assert startup_plan.compute_plan_fingerprint is plans.fingerprint
