"""Finds the path that a client meant, when there is none as it asked for. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

API = "/v1"
MOST = 100
"""Longer paths are not compared: they are no slips of a key."""

ALIKE = 0.8


def nearest(path: str, known: Collection[str]) -> str:
    """Return the known path that is most like this one; empty if none is.

    Most clients that go wrong have a base URL without ``/v1``, or add it to one that has it.
    """
    if len(path) > MOST:
        return ""
    plain = re.sub("/+", "/", path).rstrip("/")
    for meant in (plain, API + plain, plain.removeprefix(API)):
        if meant in known:
            return meant
    return next(iter(difflib.get_close_matches(plain, known, n=1, cutoff=ALIKE)), "")
