"""Progress of fetching a model, for the user."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress within one stage.

    Attributes:
        stage: what is being done, in words for the user.
        fraction: how much of the stage is done, from 0 to 1; None when that is unknown.
    """

    stage: str
    fraction: float | None = None


OnProgress = Callable[[Progress], None]


@contextmanager
def watching(stage: str, folder: Path, size: int, on_progress: OnProgress) -> Iterator[None]:
    """While the block runs, report progress of `stage` by the growth of the files in `folder`.

    Args:
        size: by how many bytes they will have grown at the end, approximately.
    """
    done = threading.Event()
    before = bytes_under(folder)

    def report() -> None:
        while not done.wait(INTERVAL_S):
            grown = bytes_under(folder) - before
            on_progress(Progress(stage, min(max(grown / size, 0.0), 1.0)))

    on_progress(Progress(stage, 0.0))
    thread = threading.Thread(target=report, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def bytes_under(folder: Path) -> int:
    """Total size of the regular files below `folder`, which may change meanwhile; skips links."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_symlink() else path.stat().st_size
        except FileNotFoundError:
            continue
    return total
