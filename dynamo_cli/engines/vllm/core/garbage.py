"""Keeps vLLM from collecting garbage in a process that is about to end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def left() -> Iterator[None]:
    """Within this context nothing is collected, and what the zygote has frozen stays frozen.

    When an engine is shut down, vLLM unfreezes all objects and collects garbage, so that a process
    can build another engine. Here the process ends next, which frees everything. To visit the
    million objects of the imports would take 2 s on a core, and each process would then copy the
    memory that all of them share.
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
