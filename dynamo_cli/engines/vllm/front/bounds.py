"""The kinds of rules that the gate has for a field of a request's body. Pure."""

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
    """Where in the body pydantic found something wrong: ``messages.0.content``, or empty.

    What it puts between the fields (classes, types and validators that it tried) says nothing to
    clients and is left out.
    """
    return ".".join(str(part) for part in loc if isinstance(part, int) or _FIELD.fullmatch(part))


class Rule(Protocol):
    """What a field may be."""

    def check(self, name: str, value: Any) -> None:
        """Raises `InvalidRequest` when that cannot be; `value` is as the client sent it.

        Never null, which means that the field is not given. What has another type than the field
        passes: vLLM's own classes say best what they expect.
        """

    def schema(self) -> dict[str, Any]:
        """The bound in the words of JSON Schema, as far as it has them."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Whatever vLLM's class takes: it has no power over others, or vLLM itself bounds it."""

    def check(self, name: str, value: Any) -> None:
        """Everything passes."""

    def schema(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class Refused:
    """Not for clients.

    Attributes:
        why: what is the matter with it, and what to use instead; the rest of a sentence.
        unless: the value that is as good as none.
    """

    why: str
    unless: Any = None

    def check(self, name: str, value: Any) -> None:
        if value != self.unless:
            raise InvalidRequest(f"{name} is not taken from clients: {self.why}.", param=name)

    def schema(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds; pydantic reads numbers in strings too, NaN among them."""

    least: float
    most: float

    def check(self, name: str, value: Any) -> None:
        number = as_number(value)
        if number is not None and not self.least <= number <= self.most:
            raise InvalidRequest(f"{name} is from {self.least} to {self.most}.", param=name)

    def schema(self) -> dict[str, Any]:
        return {"minimum": self.least, "maximum": self.most}


@dataclass(frozen=True, slots=True)
class Text:
    """A string of at most so many characters."""

    most: int

    def check(self, name: str, value: Any) -> None:
        if isinstance(value, str) and len(value) > self.most:
            raise InvalidRequest(
                f"{name} has at most {self.most} characters, not {len(value)}.", param=name
            )

    def schema(self) -> dict[str, Any]:
        return {"maxLength": self.most}


@dataclass(frozen=True, slots=True)
class Entries:
    """A list or object of at most so many entries; a list that begins with a number is one entry.

    Attributes:
        numbers: such a list has as many entries as numbers.
        each: bounds a string, alone or in the list.
    """

    most: int
    numbers: bool = False
    each: Text | None = None

    def check(self, name: str, value: Any) -> None:
        if self.each is not None:
            for text in value if isinstance(value, list) else (value,):
                self.each.check(name, text)
        found = len(value) if self.numbers and isinstance(value, list) else entries(value)
        if found > self.most:
            raise InvalidRequest(
                f"{name} has at most {self.most} entries, not {found}.", param=name
            )

    def schema(self) -> dict[str, Any]:
        bounds = {"maxItems": self.most} if self.numbers or self.each else {}
        return bounds | ({} if self.each is None else self.each.schema())


@dataclass(frozen=True, slots=True)
class Weight:
    """JSON, or text, of at most so many bytes, and fewer entries than that.

    Attributes:
        inner: rules for what is inside an object; names that it does not have pass.
    """

    bytes: int
    entries: int = 0
    inner: Mapping[str, Rule] | None = None

    def check(self, name: str, value: Any) -> None:
        if self.entries and entries(value) > self.entries:
            raise InvalidRequest(f"{name} has at most {self.entries} entries.", param=name)
        if self.inner is not None and isinstance(value, dict):
            check_all(self.inner, value, f"{name}.")
        if len(orjson.dumps(value)) > self.bytes:
            raise InvalidRequest(f"{name} has at most {self.bytes} bytes.", param=name)

    def schema(self) -> dict[str, Any]:
        inner = self.inner or {}
        refused = sorted(name for name, rule in inner.items() if isinstance(rule, Refused))
        bounds = {"maxItems": self.entries} if self.entries else {}
        return bounds | ({"propertyNames": {"not": {"enum": refused}}} if refused else {})


@dataclass(frozen=True, slots=True)
class Words:
    """A list of strings that is short as tokens too: no token is shorter than a byte.

    Attributes:
        bytes: of all together, with two for each that its tokenizer may add.
    """

    most: int
    bytes: int

    def check(self, name: str, value: Any) -> None:
        words = [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
        size = sum(len(word.encode()) + 2 for word in words)
        if len(words) > self.most or size > self.bytes:
            raise InvalidRequest(
                f"{name} has at most {self.most} entries, and {self.bytes} bytes in all of them, "
                "where each counts two more than it has.",
                param=name,
            )

    def schema(self) -> dict[str, Any]:
        return {"maxItems": self.most}


def check_all(rules: Mapping[str, Rule], content: dict[str, Any], prefix: str = "") -> None:
    """Check what there are rules for.

    Refused fields that say nothing are taken out: null is no value of some of them for vLLM.

    Raises:
        InvalidRequest: of the first field that cannot be.
    """
    for name in rules.keys() & content.keys():
        rule, value = rules[name], content[name]
        if value is not None:
            rule.check(prefix + name, value)
        if isinstance(rule, Refused):
            del content[name]


def entries(value: Any) -> int:
    """How many there are; a list of numbers is one prompt."""
    if isinstance(value, list):
        return 1 if value and isinstance(value[0], int) else len(value)
    return len(value) if isinstance(value, dict) else 1


def as_number(value: Any) -> float | None:
    """As pydantic would read it; None when it would not."""
    if isinstance(value, str):
        with suppress(ValueError):
            return float(value)
        return None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
