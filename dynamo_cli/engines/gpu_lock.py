"""Engines on one GPU are loaded one after the other.

vLLM measures the free memory of the whole device before, while and after it loads; what another
engine takes meanwhile is counted as its own, and one of them fails for want of memory.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dynamo_cli.config import Device

BUSES = Path("/sys/bus/pci/devices")
"""Folders that are there for each GPU; a lock on one leaves nothing behind."""

logger = logging.getLogger(__name__)


@contextmanager
def alone_on(devices: Sequence[Device], folders: Path = BUSES) -> Iterator[None]:
    """Wait until nobody else loads an engine on any of these GPUs; CPUs are never waited for.

    The locks end with the process. They are taken in one order, so that two engines with several
    GPUs cannot wait for each other.
    """
    with ExitStack() as held:
        for bus in sorted({device.bus for device in devices}):
            if (descriptor := _open(folders / bus)) is None:
                logger.warning("GPU %s cannot be locked: engines may load there at once", bus)
                continue
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _open(folder: Path) -> int | None:
    with suppress(OSError):
        return os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    return None
