"""Filters of tables: words, and conditions on fields such as ``worker:3`` or ``ttft>1s``. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
FieldValue = str | float | None
Field = Callable[[T], FieldValue]
"""Returns a field of an item: text, a number (times in seconds, shares from 0 to 1), or None."""

CONDITION = re.compile(r"([a-z_]+)(>=|<=|[:=<>])(.*)", re.IGNORECASE)
QUANTITY = re.compile(r"(-?\d+(?:\.\d+)?)\s*([a-zµ%]*)", re.IGNORECASE)
COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
UNITS = {
    "": 1.0,
    "%": 0.01,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
}
NOT = "-"
"""Before a word or a condition: only rows for which it does not hold."""


@dataclass(frozen=True, slots=True)
class Filter(Generic[T]):
    """A filter that was typed.

    Attributes:
        tests: all of them hold for the rows that are shown.
        problem: what is wrong with the text, and what would be right; empty if nothing is.
    """

    tests: tuple[Callable[[T], bool], ...] = ()
    problem: str = ""

    def accepts(self, item: T) -> bool:
        """Whether a row is shown."""
        return all(test(item) for test in self.tests)


def parse(text: str, words: Callable[[T], str], fields: Mapping[str, Field[T]]) -> Filter[T]:
    """Read a filter: parts that are separated by spaces, all of which must hold.

    Args:
        text: what was typed.
        words: returns the text of an item in which words are searched.
        fields: the fields on which there can be conditions, by name.
    """
    tests: list[Callable[[T], bool]] = []
    problem = ""
    for part in text.split():
        bare = part.removeprefix(NOT)
        found = CONDITION.fullmatch(bare)
        if not bare or (found is not None and not found[3]):
            continue  # it is still being typed
        if found is not None and (field := fields.get(found[1].lower())) is not None:
            test, wrong = _condition(field, found[1], found[2], found[3])
            problem = problem or wrong
        else:
            test = _word(bare.lower(), words)
            if found is not None and found[2] != ":":
                problem = problem or _unknown(found[1], fields)
        tests.append(test if bare == part else _negated(test))
    return Filter(tuple(tests), problem)


def _condition(
    field: Field[T], name: str, sign: str, wanted: str
) -> tuple[Callable[[T], bool], str]:
    amount = quantity(wanted)
    if sign in COMPARE:
        if amount is None:
            return _never, f"{name}{sign} takes a number, such as 5, 250ms, 1.5s, 2k or 80%"
        compare, bound = COMPARE[sign], amount
        return lambda item: _compared(field(item), compare, bound), ""
    low = wanted.lower()

    def same(item: T) -> bool:
        value = field(item)
        if isinstance(value, str):
            return low in value.lower()
        return value is None if amount is None else value == amount

    return same, ""


def _compared(value: FieldValue, compare: Callable[[Any, Any], bool], bound: float) -> bool:
    return isinstance(value, int | float) and bool(compare(value, bound))


def _never(_: object) -> bool:
    return False


def _word(word: str, words: Callable[[T], str]) -> Callable[[T], bool]:
    return lambda item: word in words(item).lower()


def _negated(test: Callable[[T], bool]) -> Callable[[T], bool]:
    return lambda item: not test(item)


def quantity(text: str) -> float | None:
    """Read a number with a unit: ``250ms``, ``1.5s``, ``2k``, ``80%``; None if it is none."""
    found = QUANTITY.fullmatch(text)
    if found is None:
        return None
    unit = UNITS.get(found[2], UNITS.get(found[2].lower()))
    return None if unit is None else float(found[1]) * unit


def _unknown(name: str, fields: Mapping[str, Field[T]]) -> str:
    if not fields:
        return f"there is no field {name!r} here; only words can be searched"
    return f"there is no field {name!r} here; there are {', '.join(fields)}"
