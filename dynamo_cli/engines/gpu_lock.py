"""A lock per GPU: engines on the same GPU are loaded one after the other.

vLLM measures the free memory of the whole device before, during and after loading. If another
engine takes memory meanwhile, vLLM counts that memory as its own, and one of the two engines fails
to start.
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
"""Holds a folder for each GPU; a lock on a folder leaves nothing behind."""

logger = logging.getLogger(__name__)


@contextmanager
def alone_on(devices: Sequence[Device], folders: Path = BUSES) -> Iterator[None]:
    """Hold the locks of these GPUs; without GPUs, do nothing.

    Waits while another process loads an engine on any of them. The locks end with the process.
    All processes take them in the same order, so that two engines with several GPUs cannot
    deadlock.

    Args:
        devices: the GPUs; one that cannot be locked is logged, and loaded on without a lock.
        folders: holds a folder for each GPU, named by its bus address.
    """
    with ExitStack() as held:
        for bus in sorted({device.bus for device in devices}):
            if (descriptor := _open(folders / bus)) is None:
                logger.warning(
                    "GPU %s cannot be locked: if two engines load there at the same time, one of "
                    "them may fail to start",
                    bus,
                )
                continue
            held.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def _open(folder: Path) -> int | None:
    with suppress(OSError):
        return os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    return None
