"""Sizes of memory as people type and read them. Pure."""

from __future__ import annotations

import re

from dynamo_cli.errors import UsageError
from dynamo_cli.units import GIB, KIB, MIB

UNITS = {
    "": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024 * GIB,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?([a-z]*)", re.IGNORECASE)


def size_of(flag: str, text: str) -> int:
    """Read a size in bytes: ``64GiB``, ``500 MiB``, ``1.5TB`` or a number of bytes.

    Raises:
        UsageError: it is none; the message names the flag.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = UNITS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise UsageError(
            f"{flag} takes a size like 64GiB, 500MiB or a number of bytes; not {text!r}."
        )
    return int(float(match[1]) * factor) if "." in match[1] else int(match[1]) * factor


def sized(size: int) -> str:
    """A size in bytes as ``1.2 GiB`` or ``340 MiB``."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
