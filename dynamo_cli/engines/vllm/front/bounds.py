"""The kinds of rules that the gate can have for a field of a request body. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from dynamo_cli.errors import InvalidRequest

_FIELD = re.compile(r"(?!(str|int|float|bool|dict|list)$)[a-z_][a-z0-9_]*")


def place(loc: tuple[int | str, ...]) -> str:
    """Return where in the body pydantic found an error, as ``messages.0.content``; or nothing.

    Between the fields pydantic names classes, types and validators that it tried. They are left
    out, because they mean nothing to clients.
    """
    return ".".join(str(part) for part in loc if isinstance(part, int) or _FIELD.fullmatch(part))


class FieldRule(Protocol):
    """A rule for the value of one field."""

    def check(self, name: str, value: Any) -> None:
        """Check a value as the client sent it, which is never null: that means "not given".

        A value of another type than the field passes: vLLM's own classes report it better.

        Raises:
            InvalidRequest: the value is refused or out of bounds.
        """

    def schema(self) -> dict[str, Any]:
        """Return the bound in JSON Schema, as far as that can express it."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Any value that vLLM takes: it cannot harm other requests, or vLLM itself bounds it."""

    def check(self, name: str, value: Any) -> None:
        """Let every value pass."""

    def schema(self) -> dict[str, Any]:
        """Return the bound in JSON Schema."""
        return {}


@dataclass(frozen=True, slots=True)
class Refused:
    """A field that clients may not set.

    Attributes:
        why: why not, and what to use instead; the rest of a sentence.
        unless: the one value that is allowed, because it means the same as no value.
    """

    why: str
    unless: Any = None

    def check(self, name: str, value: Any) -> None:
        """Raise `InvalidRequest` if the value breaks the rule."""
        if value != self.unless:
            raise InvalidRequest(f"{name} is not taken from clients: {self.why}.", param=name)

    def schema(self) -> dict[str, Any]:
        """Return the bound in JSON Schema."""
        return {}


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds, also in a string: pydantic reads numbers in strings, even NaN."""

    least: float
    most: float

    def check(self, name: str, value: Any) -> None:
        """Raise `InvalidRequest` if the value breaks the rule."""
        number = as_number(value)
        if number is not None and not self.least <= number <= self.most:
            raise InvalidRequest(f"{name} must be from {self.least} to {self.most}.", param=name)

    def schema(self) -> dict[str, Any]:
        """Return the bound in JSON Schema."""
        return {"minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class BoundedText:
    """A string of at most `most` characters."""

    most: int

    def check(self, name: str, value: Any) -> None:
        """Raise `InvalidRequest` if the value breaks the rule."""
        if isinstance(value, str) and len(value) > self.most:
            raise InvalidRequest(
                f"{name} may have at most {self.most} characters, not {len(value)}.", param=name
            )

    def schema(self) -> dict[str, Any]:
        """Return the bound in JSON Schema."""
        return {"maxLength": self.most}


@dataclass(frozen=True, slots=True)
class Entries:
    """A list or object of at most `most` entries; a list that begins with a number is one entry.

    Attributes:
        numbers: whether each number of such a list counts as an entry instead.
        each: bound of each string in the list, or of a single one.
    """

    most: int
    numbers: bool = False
    each: BoundedText | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise `InvalidRequest` if the value breaks the rule."""
        if self.each is not None:
            for text in value if isinstance(value, list) else (value,):
                self.each.check(name, text)
        found = len(value) if self.numbers and isinstance(value, list) else entries(value)
        if found > self.most:
            raise InvalidRequest(
                f"{name} may have at most {self.most} entries, not {found}.", param=name
            )

    def schema(self) -> dict[str, Any]:
        """Return the bound in JSON Schema."""
        bounds = {"maxItems": self.most} if self.numbers or self.each else {}
        return bounds | ({} if self.each is None else self.each.schema())


@dataclass(frozen=True, slots=True)
class BoundedJson:
    """A JSON value of bounded size.

    Attributes:
        bytes: largest size of the value as JSON, bytes.
        entries: largest number of entries of a list or object; 0 for no bound.
        inner: rules for the fields of an object; fields without a rule pass.
    """

    bytes: int
    entries: int = 0
    inner: Mapping[str, FieldRule] | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise `InvalidRequest` if the value breaks the rule."""
        if self.entries and entries(value) > self.entries:
            raise InvalidRequest(f"{name} may have at most {self.entries} entries.", param=name)
        if self.inner is not None and isinstance(value, dict):
            check_all(self.inner, value, f"{name}.")
        if len(orjson.dumps(value)) > self.bytes:
            raise InvalidRequest(f"{name} may have at most {self.bytes} bytes.", param=name)

    def schema(self) -> dict[str, Any]:
        """Return the bound in JSON Schema."""
        inner = self.inner or {}
        refused = sorted(name for name, rule in inner.items() if isinstance(rule, Refused))
        bounds = {"maxItems": self.entries} if self.entries else {}
        return bounds | ({"propertyNames": {"not": {"enum": refused}}} if refused else {})


@dataclass(frozen=True, slots=True)
class BoundedStrings:
    """A list of strings with few tokens: their bytes are bounded, and a token has at least a byte.

    Attributes:
        most: largest number of strings.
        bytes: largest number of bytes in total. Each string counts as two bytes more than it has,
            for what a tokenizer may add.
    """

    most: int
    bytes: int

    def check(self, name: str, value: Any) -> None:
        """Raise `InvalidRequest` if the value breaks the rule."""
        words = [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
        size = sum(len(word.encode()) + 2 for word in words)
        if len(words) > self.most or size > self.bytes:
            raise InvalidRequest(
                f"{name} may have at most {self.most} entries, and {self.bytes} bytes in total; "
                "each entry counts as two bytes more than it has.",
                param=name,
            )

    def schema(self) -> dict[str, Any]:
        """Return the bound in JSON Schema."""
        return {"maxItems": self.most}


def check_all(rules: Mapping[str, FieldRule], content: dict[str, Any], prefix: str = "") -> None:
    """Check all fields that there are rules for, in the order in which the client sent them.

    A refused field that passes, such as a null one, is removed: vLLM does not take every null.

    Raises:
        InvalidRequest: a field breaks its rule.
    """
    for name in [name for name in content if name in rules]:
        rule, value = rules[name], content[name]
        if value is not None:
            rule.check(prefix + name, value)
        if isinstance(rule, Refused):
            del content[name]


def entries(value: Any) -> int:
    """Return the number of entries; a list of numbers is one prompt, and anything else is one."""
    if isinstance(value, list):
        return 1 if value and isinstance(value[0], int) else len(value)
    return len(value) if isinstance(value, dict) else 1


def as_number(value: Any) -> float | None:
    """Return the number that pydantic would read; None if it would read none."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
