"""The sockets that the frontend listens on. The supervisor keeps them open between two frontends.

So no connection is refused while the frontend is replaced: connections wait in the backlog of the
socket until the next frontend accepts them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable


class ListeningSockets:
    """The supervisor's copies of these sockets.

    Attributes:
        sockets: the sockets of the latest frontend; empty before the first one listens.
    """

    def __init__(self) -> None:
        self.sockets: tuple[socket.socket, ...] = ()

    def keep(self, descriptors: Iterable[int]) -> None:
        """Keep the sockets of a new frontend, and close the copies of those before.

        Args:
            descriptors: descriptors of the sockets, which this object owns from now on.
        """
        self.close()
        self.sockets = tuple(socket.socket(fileno=number) for number in descriptors)

    def close(self) -> None:
        """Close the copies. The sockets still listen until the frontend has closed its own, too."""
        for one in self.sockets:
            one.close()
        self.sockets = ()
