"""Text on its way to a stream: who says something never waits for who reads it."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TextIO

MAX_WAITING_CHARS = 1 << 20
GRACE_S = 1.0
"""How long the end waits for what is not written yet."""


class _Piece(NamedTuple):
    """What is written in one go; `missing`: it stands for so many pieces that were not."""

    text: str
    missing: int = 0


class Outlet:
    """Writes pieces of text in a thread of its own, in order, each whole or not at all.

    A reader that is gone, one that does not read and a full disk are no failures: what cannot be
    kept or written is counted, and told when writing works again.

    Args:
        out: an open stream with a descriptor, which nobody else writes to meanwhile.
        tell: gives the text that tells how many pieces are missing; called from any thread.
        limit_chars: how much may wait.

    Attributes:
        lost: pieces that were not written.
    """

    def __init__(
        self,
        out: TextIO,
        tell: Callable[[int], str],
        *,
        limit_chars: int = MAX_WAITING_CHARS,
    ) -> None:
        self.lost = 0
        self._out = out
        self._descriptor = out.fileno()
        self._tell = tell
        self._limit_chars = limit_chars
        self._changed = threading.Condition()
        self._waiting: deque[_Piece] = deque()
        self._waiting_chars = 0
        self._untold = 0
        self._torn = self._closing = False
        self._thread: threading.Thread | None = None

    def write(self, text: str) -> None:
        """Write it soon; never waits, never fails."""
        with self._changed:
            is_full = bool(self._waiting) and self._waiting_chars + len(text) > self._limit_chars
            if is_full or self._closing:
                self.lost += 1
                self._untold += 1
                return
            self._tell_missing()
            self._add(_Piece(text))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)
                self._thread.start()

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        return self._out.isatty()

    def fileno(self) -> int:
        return self._descriptor

    def forget_waiting(self) -> None:
        """Nobody wants to see it any more: there is room for what comes now."""
        with self._changed:
            self._waiting.clear()
            self._waiting_chars = 0

    def close(self, grace_s: float = GRACE_S) -> None:
        """Write what waits, but not for longer than this."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(grace_s)

    def _add(self, piece: _Piece) -> None:
        self._waiting.append(piece)
        self._waiting_chars += len(piece.text)
        self._changed.notify()

    def _tell_missing(self) -> None:
        if self._untold:
            self._add(_Piece(self._tell(self._untold), self._untold))
            self._untold = 0

    # -- in the thread -------------------------------------------------------------------------

    def _run(self) -> None:
        while (piece := self._next()) is not None:
            written = self._put(piece.text)
            with self._changed:
                if not written:
                    self.lost += not piece.missing
                    self._untold += piece.missing or 1
                elif not self._waiting:
                    self._tell_missing()

    def _next(self) -> _Piece | None:
        """What is to be written now; None: nothing more will come."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return None
                self._changed.wait()
            piece = self._waiting.popleft()
            self._waiting_chars -= len(piece.text)
            return piece

    def _put(self, text: str) -> bool:
        """Write all of it, however long that takes; False: it cannot be written."""
        data = text.encode(self._out.encoding or "utf-8", "replace")
        if self._torn:
            data = b"\n" + data
        while data:
            try:
                # Not the stream itself: its lock would be held while this waits, also at exit.
                count = os.write(self._descriptor, data)
            except BlockingIOError:
                self._wait_for_room()
                continue
            except OSError:
                return False
            data = data[count:]
            self._torn = bool(data)
        return True

    def _wait_for_room(self) -> None:
        """Somebody else made the stream one that does not block."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        poller.poll()
