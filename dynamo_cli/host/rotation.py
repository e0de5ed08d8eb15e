"""A log file that is rotated by size: ``FILE``, then ``FILE.1`` (the newest) to ``FILE.5``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dynamo_cli.host.outlet import Outlet

KEPT_FILES = 5
"""Number of older files that are kept beside the current one."""


class RotatedFile(Outlet):
    """An outlet that appends to a file, and begins a new one before the file gets too large.

    When another program moves or removes the file, as logrotate does, it is made anew. When the
    files cannot be renamed, the current file grows on, and a line of it says why.

    Args:
        path: the file; it is made if it does not exist.
        tell: makes the text that reports how many pieces are missing.
        complain: makes the text which says that the file cannot be rotated, and why.
        limit_bytes: size of a file at which the next one begins.

    Raises:
        OSError: the file cannot be opened for writing.
    """

    def __init__(
        self,
        path: Path,
        tell: Callable[[int], str],
        complain: Callable[[OSError], str],
        limit_bytes: int,
    ) -> None:
        self._path = path.absolute()
        self._complain = complain
        self._limit_bytes = limit_bytes
        self._stuck = False
        super().__init__(self._path.open("a", encoding="utf-8"), tell)

    def close(self, grace_s: float | None = None) -> None:
        """Write what is queued, as an outlet does, and close the file."""
        super().close() if grace_s is None else super().close(grace_s)
        if not self.busy:
            self._out.close()

    # -- in the thread -------------------------------------------------------------------------

    def _descriptor_for(self, nbytes: int) -> int:
        """The descriptor of the file to which the next bytes go."""
        here = os.fstat(self._descriptor)
        if not self._is_at_path(here):
            self._open()
        elif here.st_size and here.st_size + nbytes > self._limit_bytes:
            self._rotate()
        return self._descriptor

    def _is_at_path(self, here: os.stat_result) -> bool:
        try:
            return os.path.samestat(here, self._path.stat())
        except FileNotFoundError:
            return False

    def _open(self) -> None:
        """Go on in a new file, or in that which another program has put there."""
        opened = self._path.open("a", encoding="utf-8")
        self._out.close()
        self._out, self._descriptor = opened, opened.fileno()

    def _rotate(self) -> None:
        try:
            for number in range(KEPT_FILES - 1, 0, -1):
                if (older := self._numbered(number)).exists():
                    older.replace(self._numbered(number + 1))
            self._path.replace(self._numbered(1))
            self._open()
        except OSError as error:
            if not self._stuck:
                os.write(self._descriptor, self._complain(error).encode(errors="replace"))
            self._stuck = True
        else:
            self._stuck = False

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
