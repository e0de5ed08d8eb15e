"""A folder that is built once, shows up whole or not at all, and is then only read.

<cache>/dynamo-llm/models/
  tiny-1/            the finished folder; it exists only when it is complete
  tiny-1.lock        held while somebody builds it
  tiny-1.work/       half-built; whoever holds the lock next throws it away
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamo_cli.host.cache import cache_root


def models_root() -> Path:
    """Where all of them are."""
    return cache_root() / "models"


def build_once(name: str, build: Callable[[Path, Path], None]) -> Path:
    """The finished folder `name` of the cache, built first when it is not there.

    Several processes may call this at once: one builds, the others wait for it.

    Args:
        name: of the folder; a change of its format is a change of its name.
        build: fills the first folder, which becomes the finished one; the second is for
            scratch and is removed. What it raises is passed on, and nothing is left behind.
    """
    folder = models_root() / name
    if folder.is_dir():
        return folder
    with _locked(folder.with_name(f"{name}.lock")):
        if not folder.is_dir():
            _build(folder, folder.with_name(f"{name}.work"), build)
    return folder


def _build(folder: Path, work: Path, build: Callable[[Path, Path], None]) -> None:
    shutil.rmtree(work, ignore_errors=True)
    result, scratch = work / "result", work / "scratch"
    try:
        result.mkdir(parents=True)
        scratch.mkdir()
        build(result, scratch)
        result.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds `path` exclusively; the kernel lets go of it when the process ends in any way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
