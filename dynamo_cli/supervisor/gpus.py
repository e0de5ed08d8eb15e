"""The assignment of GPUs to engines. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_cli.config import Device, Devices
from dynamo_cli.errors import ResourceError


def place(
    workers: int, width: int, gpus: Sequence[Device], *, reuse: bool = False
) -> list[Devices]:
    """Assign GPUs to workers, in order.

    Args:
        workers: how many engines.
        width: GPUs of one engine (tensor parallel times pipeline parallel).
        gpus: those that may be used; none means that engines run on the CPU.
        reuse: whether engines share GPUs when there are too few: assignment then starts again
            with the first.

    Returns:
        One tuple of `width` GPUs per worker; empty tuples on the CPU.

    Raises:
        ResourceError: there are too few.
    """
    if not gpus:
        return [()] * workers
    groups = groups_of(width, gpus)
    if not groups or (len(groups) < workers and not reuse):
        raise ResourceError(
            f"{_count(workers, 'worker')} with --worker-tp {width} need {workers * width} GPUs, "
            f"and {len(gpus)} may be used. Use fewer --workers, a smaller --worker-tp"
            + (", or --reuse-gpus to share them." if groups else ".")
        )
    return [groups[index % len(groups)] for index in range(workers)]


def groups_of(width: int, gpus: Sequence[Device]) -> list[Devices]:
    """Consecutive groups of `width` GPUs; a remainder that fills no group is left out."""
    whole = len(gpus) // width * width
    return [tuple(gpus[start : start + width]) for start in range(0, whole, width)]


def sharers(placed: Sequence[Devices]) -> int:
    """How many engines share the most shared GPU; 1 when none is shared, or on the CPU."""
    every = [gpu for devices in placed for gpu in devices]
    return max((every.count(gpu) for gpu in every), default=1)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("s" if number != 1 else "")
