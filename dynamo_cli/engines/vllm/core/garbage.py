"""Keeps vLLM from collecting garbage in a process that ends next."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def left() -> Iterator[None]:
    """Within this context no garbage is collected, and frozen objects stay frozen.

    When an engine is shut down, vLLM unfreezes all objects (`gc.unfreeze`) and collects garbage, so
    that its process can build another engine. Here the process ends next, which frees everything.
    To visit the million objects of the imported modules would take 2 s on a core. It would also
    write to the memory that this process shares with the zygote, so that the memory is copied.
    """
    collect, unfreeze = gc.collect, gc.unfreeze
    gc.collect, gc.unfreeze = _collect_nothing, _unfreeze_nothing
    try:
        yield
    finally:
        gc.collect, gc.unfreeze = collect, unfreeze


def _collect_nothing(generation: int = 2) -> int:
    return 0


def _unfreeze_nothing() -> None:
    pass
