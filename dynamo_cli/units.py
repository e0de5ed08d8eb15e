"""Units that several packages count in, and whole numbers in words of a command line."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

US_NS = 1_000
"""Nanoseconds of a microsecond."""

MS_NS = 1_000_000
"""Nanoseconds of a millisecond."""

SECOND_NS = 1_000_000_000
"""Nanoseconds of a second."""

_DIGITS = re.compile(r"[0-9]{1,18}")


def whole_number(text: str) -> int | None:
    """Read a whole number; None for any other text, and for one of more than 18 digits.

    `int` raises ValueError for thousands of digits.
    """
    return int(text) if _DIGITS.fullmatch(text) else None
