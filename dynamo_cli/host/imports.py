"""What forked processes have imported, told to the process that forks them, for later ones.

An engine imports modules of the compiler and of its model's tokenizer that the zygote has not,
which takes seconds on a GPU. When the next engine is forked, the zygote has them already.
"""

from __future__ import annotations

import logging
import socket
import sys

PACKAGES = (
    *("torch._inductor.", "torch._dynamo.", "torch._export.", "torch.fx."),
    *("transformers.", "sympy."),
)
"""Beginnings of the names of modules that are told. These use no device when they are imported.
Some of vLLM's do, and a process that has used a device must not fork."""

LARGEST = 1 << 17
"""Bytes of a message: names of thousands of modules."""

logger = logging.getLogger(__name__)

_told: set[str] = set()
_speaking: socket.socket | None = None


def listen() -> socket.socket:
    """Return the socket at which processes that are forked from now on tell what they import."""
    global _speaking
    hearing, _speaking = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    hearing.setblocking(False)
    _speaking.setblocking(False)
    return hearing


def forked(hearing: socket.socket) -> None:
    """In the forked process: note what it has, and leave the other end of the socket."""
    hearing.close()
    _told.update(sys.modules)


def tell() -> None:
    """Tell what this process has imported since it was forked, or since it told before."""
    if _speaking is None:
        return  # it was not forked
    names = [name for name in list(sys.modules) if name.startswith(PACKAGES) and name not in _told]
    if not names:
        return
    try:
        _speaking.send(",".join(names).encode())
    except OSError as error:
        logger.debug("the next process like this one starts later than it could: %s", error)
        return
    _told.update(names)


def hear(hearing: socket.socket) -> list[str]:
    """Return the names of a message that has come."""
    return hearing.recv(LARGEST).decode().split(",")
