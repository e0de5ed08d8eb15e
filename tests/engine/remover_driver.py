"""Runs the program that removes what ranks leave behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def removed(folder: str, shared: str) -> tuple[bool, list[str]]:
    """Whether the folder of the ranks is gone, and what is left in the shared one."""
    from dynamo_cli.engines.vllm.core.ranks import _REMOVE

    words = [sys.executable, "-ISc", _REMOVE, folder, shared]
    subprocess.run(words, input=b"", check=True)
    place = Path(shared)
    left = sorted(path.name for path in place.iterdir()) if place.is_dir() else []
    return Path(folder).exists(), left
