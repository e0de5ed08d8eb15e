"""What a check found, and how bad it is. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from dynamo_cli.doctor.facts import Facts


class Level(StrEnum):
    """Severity of a finding; with a FAIL serving cannot work."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        remedy: what to do; empty when all is well.
    """

    check: str
    level: Level
    message: str
    remedy: str = ""


Rule = Callable[[Facts], Iterator[Finding]]
"""Yields what it finds in the facts."""


def ok(check: str, message: str) -> Finding:
    """A finding that all is well."""
    return Finding(check, Level.OK, message)


def warn(check: str, message: str, remedy: str) -> Finding:
    """A finding that serving works, but badly."""
    return Finding(check, Level.WARN, message, remedy)


def fail(check: str, message: str, remedy: str) -> Finding:
    """A finding that serving cannot work."""
    return Finding(check, Level.FAIL, message, remedy)
