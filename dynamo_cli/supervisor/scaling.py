"""Changes the number of workers in the plan. Pure."""

from __future__ import annotations

from dataclasses import replace

from dynamo_cli.config import Devices
from dynamo_cli.errors import Conflict, InvalidRequest
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.gpus import groups_of

MOST_WORKERS = 64


def rescaled(config: ServeConfig, count: int) -> ServeConfig:
    """The same plan with `count` workers; those that remain keep their GPUs.

    Raises:
        InvalidRequest: the number is out of range.
        Conflict: there is no router to choose between workers, or no GPU for one more.
    """
    if not 1 <= count <= MOST_WORKERS:
        raise InvalidRequest(f"count is a number from 1 to {MOST_WORKERS}.", param="count")
    if count > 1 and config.router is None:
        raise Conflict(
            "there is no router to choose between workers; start with --router least-loaded "
            "(or kv), which one worker may have too."
        )
    devices = list(config.engine_devices[:count])
    while len(devices) < count:
        devices.append(_free_group(config, devices))
    return replace(config, engine_devices=tuple(devices))


def _free_group(config: ServeConfig, taken: list[Devices]) -> Devices:
    """GPUs that no engine has; an empty tuple where engines run on the CPU."""
    width = len(config.engine_devices[0])
    if not width:
        return ()
    used = {gpu for devices in (*taken, *config.prefill_devices) for gpu in devices}
    for group in groups_of(width, config.gpus):
        if used.isdisjoint(group):
            return group
    raise Conflict(
        f"one more worker needs {width} GPU{'s' if width > 1 else ''}, and each of the "
        f"{len(config.gpus)} that workers may use has an engine. How engines share a GPU is "
        "settled at the start."
    )
