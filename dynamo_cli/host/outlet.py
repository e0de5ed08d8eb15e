"""Writes text to a stream in a thread, so that the writer never waits for a slow reader."""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TextIO

MAX_WAITING_CHARS = 1 << 20
GRACE_S = 1.0
"""How long `close` waits for text that is not written yet."""


class _Piece(NamedTuple):
    """Text that is written at once.

    Attributes:
        missing: how many lost pieces this text reports; 0 for ordinary text.
    """

    text: str
    missing: int = 0


class Outlet:
    """Writes pieces of text in a thread of its own, in order, each whole or not at all.

    A reader that is gone or does not read, and a full disk, raise no error. What cannot be queued
    or written is dropped and counted, and the count is written when writing works again.

    Args:
        out: an open stream with a descriptor. Nobody else may write to it meanwhile.
        tell: makes the text that reports how many pieces are missing; called in any thread.
        limit_chars: bound of the queue.

    Attributes:
        lost: how many pieces were not written.
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
        """Queue a piece of text. Never blocks and never raises."""
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
        """Do nothing; it exists for code that expects a stream."""

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._out.isatty()

    def fileno(self) -> int:
        """Descriptor of the stream."""
        return self._descriptor

    def forget_waiting(self) -> None:
        """Drop what is queued, which nobody wants to see any more, to make room."""
        with self._changed:
            self._waiting.clear()
            self._waiting_chars = 0

    def close(self, grace_s: float = GRACE_S) -> None:
        """Write what is queued, for `grace_s` seconds at most. Later pieces are lost."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(grace_s)

    @property
    def busy(self) -> bool:
        """Whether the thread still runs."""
        return self._thread is not None and self._thread.is_alive()

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
        """Wait for the next piece; None after `close`, when nothing is queued."""
        with self._changed:
            while not self._waiting:
                if self._closing:
                    return None
                self._changed.wait()
            piece = self._waiting.popleft()
            self._waiting_chars -= len(piece.text)
            return piece

    def _put(self, text: str) -> bool:
        """Write all of it, however long that takes; False when it cannot be written."""
        data = text.encode(self._out.encoding or "utf-8", "replace")
        if self._torn:
            data = b"\n" + data
        try:
            descriptor = self._descriptor_for(len(data))
        except OSError:
            return False
        while data:
            try:
                # Not through the stream, whose lock would be held while this blocks, even at exit.
                count = os.write(descriptor, data)
            except BlockingIOError:
                self._wait_for_room()
                continue
            except OSError:
                return False
            data = data[count:]
            self._torn = bool(data)
        return True

    def _descriptor_for(self, nbytes: int) -> int:
        """The descriptor to which the next bytes go.

        Raises:
            OSError: they cannot be written.
        """
        return self._descriptor

    def _wait_for_room(self) -> None:
        """Wait until the stream can be written: another process has made it non-blocking."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLOUT)
        poller.poll()
