"""The resident memory of processes, from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from dynamo_cli.units import SECOND_NS

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
REFRESH_NS = SECOND_NS


class Memory:
    """Resident memory by pid, read at most once a second."""

    def __init__(self) -> None:
        self._bytes: dict[int, int] = {}
        self._read_ns = 0

    def of(self, pids: Iterable[int], now_ns: int) -> dict[int, int]:
        """Bytes by pid, without processes that are gone."""
        if now_ns - self._read_ns >= REFRESH_NS:
            self._read_ns = now_ns
            self._bytes = {pid: size for pid in pids if (size := _resident(pid))}
        return self._bytes


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except OSError:
        return 0  # it ended meanwhile
