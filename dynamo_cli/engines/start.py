"""Builds the engine of a worker: vLLM's, or a simulated one."""

from __future__ import annotations

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.gpu_lock import alone_on
from dynamo_cli.engines.seam import Engine


def build(index: int, config: EngineConfig, *, kv_events: bool) -> Engine:
    """Build the engine of a worker.

    Args:
        index: index of the worker.
        config: what to build.
        kv_events: keep track of what the prefix cache holds.

    Raises:
        ModelError, ResourceError, StartError, UsageError: it cannot be built.
    """
    if config.simulation is not None:
        from dynamo_cli.engines.mock.engine import MockEngine  # noqa: PLC0415 - one of the two

        return MockEngine(index, config, kv_events=kv_events)
    from dynamo_cli.engines.vllm.core.engine import VllmEngine  # noqa: PLC0415

    with alone_on(config.devices):
        return VllmEngine(index, config, kv_events=kv_events)
