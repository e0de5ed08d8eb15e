"""What a user sees while a model is being fetched."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of the way.

    Attributes:
        stage: what is being done, as a user reads it.
        fraction: how much of the stage is done, 0 to 1; None when nobody knows.
    """

    stage: str
    fraction: float | None = None


OnProgress = Callable[[Progress], None]


@contextmanager
def watching(stage: str, folder: Path, size: int, on_progress: OnProgress) -> Iterator[None]:
    """Reports `stage` by how much the files under `folder` grow, until the block ends.

    Args:
        size: bytes by which they will have grown at the end, or nearly so.
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
    """Bytes of all the regular files under `folder`, links not followed; they may come and go."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += 0 if path.is_symlink() else path.stat().st_size
        except FileNotFoundError:
            continue
    return total
