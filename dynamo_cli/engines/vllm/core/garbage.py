"""Keeps vLLM from collecting garbage in a process that is about to end."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def left() -> Iterator[None]:
    """Within it nothing is collected, and what the zygote has frozen stays frozen.

    When an engine is shut down, vLLM unfreezes all objects and collects, so that one process can
    have several engines in turn. Here the process ends, which frees everything. To look at the
    million objects of the imports would take 2 s of a core, and would give each engine a copy of
    the memory that all of them share.
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
