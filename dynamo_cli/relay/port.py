"""One link in a relay: its local end, and how many of its bytes are on the way. Nothing here
blocks.

At most `WINDOW_BYTES`, and the rest of one frame, are on the way to the other relay. More messages
stay in the ring of the link; when that is full, they stay in the process that sends them, as on any
link whose reader is slow. So a relay drops nothing, and one slow link does not delay the others.
"""

from __future__ import annotations

import logging

from dynamo_cli.errors import Corrupt
from dynamo_cli.ipc.link import Link

WINDOW_BYTES = 4 << 20
ROUND_BYTES = 256 << 10
"""About how many bytes one frame carries."""

ACK_BYTES = WINDOW_BYTES // 4
"""Delivered bytes are acknowledged in steps of this size."""

logger = logging.getLogger(__name__)


class Port:
    """A link that is relayed.

    Attributes:
        link: its local end; None before the parent has given it.
    """

    def __init__(self, link: Link | None = None) -> None:
        self.link = link
        self._early: list[bytes] = []
        self._on_the_way = 0
        self._delivered = 0

    # -- from the local process to the other relay -------------------------------------------

    def take(self) -> list[bytes]:
        """Messages to send to the other relay now.

        The list is empty if the local process has written nothing; then the link will signal the
        next message. It is also empty if too much is on the way; then call this again after
        `acknowledged`.
        """
        if self.link is None or self._on_the_way >= WINDOW_BYTES:
            return []
        while True:
            if messages := self.link.receive(ROUND_BYTES):
                self._on_the_way += sum(map(len, messages))
                return messages
            if self.link.arm():
                return []

    def last_words(self) -> list[bytes]:
        """All messages that the local process has written, without regard to the window."""
        found: list[bytes] = []
        try:
            while self.link is not None and not self.link.arm():
                found += self.link.receive()
        except Corrupt as error:  # the process is gone; what it wrote before is good
            logger.error("%s", error.message)
        return found

    def acknowledged(self, size_bytes: int) -> None:
        """Note that the other relay has delivered this many bytes."""
        self._on_the_way -= size_bytes

    # -- from the other relay to the local process -------------------------------------------

    def attach(self, link: Link) -> None:
        """Set the local end, and deliver the messages that came before it."""
        self.link = link
        early, self._early = self._early, []
        self.deliver(early)

    def deliver(self, messages: list[bytes]) -> None:
        """Pass messages on to the local process."""
        if self.link is None:
            self._early += messages
            return
        for message in messages:
            self.link.send(message, owed=True)
            self._delivered += len(message)

    def to_acknowledge(self) -> int:
        """Take the bytes to acknowledge now; 0 while fewer than `ACK_BYTES` were delivered."""
        waiting = self.link.pending_bytes if self.link is not None else 0
        delivered = self._delivered - waiting
        if delivered < ACK_BYTES:
            return 0
        self._delivered -= delivered
        return delivered
