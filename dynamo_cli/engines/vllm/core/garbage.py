"""Keeps vLLM from looking through the million objects of the imported modules for garbage.

They were frozen in the zygote, which exempts them from collection. To visit them takes 1 to 2 s on
a core, and writes to the memory that a process shares with the zygote, so that it is copied.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def left() -> Iterator[None]:
    """Within this context no garbage is collected, and frozen objects stay frozen.

    When an engine is shut down, vLLM unfreezes all objects (`gc.unfreeze`) and collects garbage, so
    that its process can build another engine. Here the process ends next, which frees everything.
    """
    collect = gc.collect
    gc.collect = _collect_nothing
    try:
        with frozen():
            yield
    finally:
        gc.collect = collect


@contextmanager
def frozen() -> Iterator[None]:
    """Within this context frozen objects stay frozen; garbage among the others is collected.

    After the capture of CUDA graphs vLLM unfreezes all objects and collects garbage, and soon after
    once more.
    """
    unfreeze = gc.unfreeze
    gc.unfreeze = _unfreeze_nothing
    try:
        yield
    finally:
        gc.unfreeze = unfreeze


def _collect_nothing(generation: int = 2) -> int:
    return 0


def _unfreeze_nothing() -> None:
    pass
