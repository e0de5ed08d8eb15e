"""Carries out what an operator asks of an engine: sleep, wake up, reset."""

from __future__ import annotations

from vllm.v1.engine.core import EngineCore

from dynamo_cli.engines.vllm.host_cache.connector import HostCacheConnector
from dynamo_cli.errors import Conflict
from dynamo_cli.messages.admin import Operate, Operation


def operate(core: EngineCore, order: Operate) -> bool:
    """Carry out an order; the engine has no requests when it is sent to sleep.

    Returns:
        whether the engine sleeps now; for a reset, whether it was possible.

    Raises:
        Conflict: this engine cannot do it.
    """
    match order.operation:
        case Operation.SLEEP:
            _check_sleep(core, order.level)
            core.sleep(order.level)
        case Operation.WAKE_UP:
            core.wake_up(list(order.tags) or None)
        case Operation.RESET_PREFIX_CACHE:
            return _reset(core, running=order.reset_running)
    return bool(core.is_sleeping())


def _reset(core: EngineCore, *, running: bool) -> bool:
    try:
        done = bool(core.reset_prefix_cache(running))
    except RuntimeError:  # requests keep blocks that are being loaded or sent
        done = False
    connector = core.scheduler.connector
    if done and isinstance(connector, HostCacheConnector):
        connector.forget_old()
    return done


def _check_sleep(core: EngineCore, level: int) -> None:
    """Refuse a level that would free no memory; vLLM itself would report that the engine sleeps."""
    if level and not core.vllm_config.model_config.enable_sleep_mode:
        raise Conflict(
            f"sleep level {level} frees memory of a GPU: start with --enable-sleep-mode, which "
            "does not work on a CPU. Level 0, which only pauses the engine, always works."
        )
