"""The format of lines in a child's log pipe, which the supervisor reads.

LEVEL <mark> text               a record of `logging`
LEVEL <mark> <mark> object      an answer that was given, as a JSON object
text                            any other output of the process
"""

from __future__ import annotations

LEVEL_END = "\x1f"
"""The mark in these lines: the ASCII unit separator."""


MOVED = "moved"
"""The field of that object with the moves of a request; it is absent if the request never moved.

It is a list of objects with `from`, `to`, `reason`, `output_tokens` and `gap_ms`.
"""


def access_line(fields: bytes) -> bytes:
    """The line for an answer that was given; `fields` is a JSON object without line ends."""
    return b"INFO%b%b%b\n" % (_MARK, _MARK, fields)


_MARK = LEVEL_END.encode()
