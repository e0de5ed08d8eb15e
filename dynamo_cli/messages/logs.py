"""Lines in the log pipe of a child: child -> supervisor.

LEVEL <mark> text               what `logging` was told
LEVEL <mark> <mark> object      a request that ended, as a JSON object
text                            output of anything else
"""

from __future__ import annotations

LEVEL_END = "\x1f"
"""The mark: a unit separator."""


def access_line(fields: bytes) -> bytes:
    """A request that ended; `fields` is a JSON object without line ends."""
    return b"INFO%b%b%b\n" % (_MARK, _MARK, fields)


_MARK = LEVEL_END.encode()
