"""The sockets that the frontend listens at: they stay open while it is replaced.

So nobody is refused meanwhile: connections wait until the new frontend takes them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable


class ListeningSockets:
    """The supervisor's copies of the sockets.

    Attributes:
        sockets: those of the last frontend; none before the first one listens.
    """

    def __init__(self) -> None:
        self.sockets: tuple[socket.socket, ...] = ()

    def keep(self, descriptors: Iterable[int]) -> None:
        """Keep these instead of the present ones, which are the same or of no use."""
        self.close()
        self.sockets = tuple(socket.socket(fileno=number) for number in descriptors)

    def close(self) -> None:
        """Let go of them: they listen until the frontend, too, has closed its copies."""
        for one in self.sockets:
            one.close()
        self.sockets = ()
