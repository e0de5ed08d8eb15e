"""Folders that are built once, appear only when they are complete, and are then only read.

<cache>/dynamo-llm/models/
  tiny-1/            the finished folder; it exists only when it is complete
  tiny-1.lock        locked while a process builds it
  tiny-1.work/       half-built; the next process that gets the lock removes it
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamo_cli.host.cache import cache_root


def models_root() -> Path:
    """The folder that contains all of them."""
    return cache_root() / "models"


def build_once(name: str, build: Callable[[Path, Path], None]) -> Path:
    """The finished folder `name` of the cache, which is built first if it is missing.

    Several processes may call this at once: one builds, the others wait for it.

    Args:
        name: name of the folder; a new format of its contents needs a new name.
        build: fills its first folder, which becomes the finished one; its second is for temporary
            files and is removed. Its exceptions propagate, and nothing is left behind.
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
    """Hold a lock on `path`; the kernel releases it however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
