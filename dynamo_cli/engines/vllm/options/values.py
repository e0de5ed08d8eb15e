"""Checks values of engine options, as far as that is possible without vLLM. Pure."""

from __future__ import annotations

import difflib
import json
import re
from enum import StrEnum
from typing import Protocol

from dynamo_cli.errors import UsageError


class ValueType(StrEnum):
    """How a value is read."""

    WORD = "word"
    WHOLE = "whole"  # 64
    REAL = "real"  # 0.9
    SIZE = "size"  # 4096, 4k (thousands), 4K (1024s)
    LENGTH = "length"  # the same, or auto
    OBJECT = "object"  # {"a": 1}
    WORD_OR_OBJECT = "word or object"


class Rules(Protocol):
    """What is known of an option's value; see `declared.VllmOption`."""

    @property
    def choices(self) -> list[str]:
        """All values that it may have; empty if there is no such list."""

    @property
    def kind(self) -> ValueType:
        """How the value is read."""

    @property
    def at_least(self) -> float | None:
        """Smallest number that it may be."""

    @property
    def above(self) -> float | None:
        """Number that it must be greater than."""

    @property
    def at_most(self) -> float | None:
        """Largest number that it may be."""

    @property
    def below(self) -> float | None:
        """Number that it must be less than."""


_ABSENT = ("", "None")
"""Words that vLLM reads as "no value", whatever the option."""

_AUTOMATIC = ("auto", "-1")
_THOUSANDS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([kKmMgGtT])")
_QUOTED = re.compile(r'("(?:[^"\\]|\\.)*")')
_BARE_SIZE = re.compile(r"\b(\d+(?:\.\d+)?)[kKmMgGtT]\b")

_NAMES = {
    ValueType.WHOLE: "a whole number",
    ValueType.REAL: "a number",
    ValueType.SIZE: "a whole number, such as 4096, 4k or 4K",
    ValueType.LENGTH: "a whole number, such as 4096, 4k or 4K, or auto",
}
_TOO_LARGE = 2.0**63
"""No number of an option has more than 64 bits, with its sign; infinite ones are larger too."""

_SHOWN = 60
"""Most characters of a value that an error message shows."""


def check(flag: str, value: str, rules: Rules) -> None:
    """Refuse a value that vLLM would refuse seconds later.

    Raises:
        UsageError: it is not among the choices, not a number, out of bounds or not JSON.
    """
    if rules.choices:
        _check_choice(flag, value, rules.choices)
    elif value in _ABSENT or rules.kind is ValueType.WORD:
        return
    elif rules.kind is ValueType.OBJECT or (
        rules.kind is ValueType.WORD_OR_OBJECT and value.lstrip().startswith("{")
    ):
        _check_object(flag, value)
    elif rules.kind in _NAMES:
        _check_number(flag, value, rules)


def _check_choice(flag: str, value: str, choices: list[str]) -> None:
    if _folded(value) not in map(_folded, choices):
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"{flag} cannot be {value!r}; it is one of {', '.join(choices)}.{hint}")


def _folded(choice: str) -> str:
    """Ignore case and dashes, because vLLM does so for some choices."""
    return choice.lower().replace("-", "_")


def _check_number(flag: str, value: str, rules: Rules) -> None:
    if rules.kind is ValueType.LENGTH and value.lower() in _AUTOMATIC:
        return
    number = _number(value, rules.kind)
    if number is None:
        raise UsageError(f"{flag} takes {_NAMES[rules.kind]}; not {value!r}.")
    holds = {
        "at least": rules.at_least is None or number >= rules.at_least,
        "above": rules.above is None or number > rules.above,
        "at most": rules.at_most is None or number <= rules.at_most,
        "below": rules.below is None or number < rules.below,
    }
    if not all(holds.values()):
        raise UsageError(f"{flag} must be {_range(rules)}; not {value}.")
    if abs(number) >= _TOO_LARGE:
        raise UsageError(f"{flag} takes {_NAMES[rules.kind]} of at most 64 bits; not {value}.")


def _range(rules: Rules) -> str:
    """The bounds in words, such as ``above 0 and at most 1``."""
    bounds = {
        "at least": rules.at_least,
        "above": rules.above,
        "at most": rules.at_most,
        "below": rules.below,
    }
    return " and ".join(
        f"{name} {bound:.15g}" for name, bound in bounds.items() if bound is not None
    )


def _number(value: str, kind: ValueType) -> float | None:
    """Read a number; None if it is not one of that kind."""
    sized = _SIZE.fullmatch(value.strip()) if kind in (ValueType.SIZE, ValueType.LENGTH) else None
    try:
        if sized is None:
            return float(value) if kind is ValueType.REAL else int(value)
        digits, suffix = sized.groups()
        if suffix in _THOUSANDS:
            return int(float(digits) * _THOUSANDS[suffix])
        return int(digits) * _BINARY[suffix]  # without decimals
    except ValueError:
        return None


def _check_object(flag: str, value: str) -> None:
    """Check a JSON object. As in vLLM, it may have sizes such as 80m outside of quotes."""
    parts = _QUOTED.split(value)
    parts[::2] = [_BARE_SIZE.sub(r"\1", part) for part in parts[::2]]
    try:
        found = json.loads("".join(parts))
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{flag} takes a JSON object, such as '{{\"key\": 1}}' in single quotes; "
            f"{_short(value)} is not JSON: {error.msg} at character {error.pos + 1}."
        ) from error
    if not isinstance(found, dict):
        raise UsageError(
            f"{flag} takes a JSON object, such as '{{\"key\": 1}}'; not {_short(value)}."
        )


def _short(value: str) -> str:
    return repr(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")
