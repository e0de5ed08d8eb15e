"""The fields of ``/dynamo/*``, from the structs that are encoded and their docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import msgspec

from dynamo_cli.messages import host_cache, prefill, routing, telemetry
from dynamo_cli.watch.decisions import DecisionView
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.schema import Snapshot
from dynamo_cli.watch.timelines import TimelineView

ROOTS: tuple[tuple[str, str, type[msgspec.Struct]], ...] = (
    (
        "/dynamo/snapshot",
        "Everything at one moment; `/dynamo/stream` sends the same as events `snapshot`.",
        Snapshot,
    ),
    (
        "/dynamo/decisions",
        '`{"decisions": [...], "dropped": N}`, the newest first. `dropped` counts those that '
        "were too many to report.",
        DecisionView,
    ),
    ("/dynamo/timeline", '`{"timelines": [...]}`, the newest first.', TimelineView),
    ("Log lines of /dynamo/stream", "Events of the stream.", LogView),
)
ELSEWHERE = (host_cache, prefill, routing, telemetry)
"""Where a struct is defined whose fields another one repeats (``see `RouterStats```)."""

Rows = list[tuple[str, str, str]]


def structs(root: type[msgspec.Struct]) -> Iterator[tuple[str, str, Rows]]:
    """A struct and those in its fields: name, what it is, and its fields."""
    todo, seen = [root], set()
    while todo:
        cls = todo.pop(0)
        if cls in seen:
            continue
        seen.add(cls)
        hints = get_type_hints(cls)
        texts = documented(cls)
        rows = [
            (f"`{shown}`", f"`{named(hints[name])}`", described(texts, name, hints[name]))
            for name, shown in zip(cls.__struct_fields__, cls.__struct_encode_fields__, strict=True)
        ]
        yield cls.__name__, about(cls), rows
        todo += [inner for hint in hints.values() for inner in inside(hint)]


def inside(hint: Any) -> Iterator[type[msgspec.Struct]]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        yield hint
    for part in get_args(hint):
        yield from inside(part)


def named(hint: Any) -> str:
    text = hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
    return re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text).replace("NoneType", "None")


def about(cls: type) -> str:
    text = inspect.getdoc(cls) or ""
    head = " ".join(text.partition("\nAttributes:")[0].split())
    return re.sub(r"[;,] see `\w+`|(?<=`)`|`(?=`)", "", head)


def documented(cls: type) -> dict[str, str]:
    """What the docstring says of each field; of `see` another struct, what that one says."""
    text = inspect.getdoc(cls) or ""
    found: dict[str, str] = {}
    for other in re.findall(r"see `(\w+)`", text):
        source = next((vars(home)[other] for home in ELSEWHERE if other in vars(home)), None)
        found |= documented(source) if source else {}
    entries = re.findall(
        r"^    ([\w*, ]+): (.*(?:\n        .*)*)", text.partition("Attributes:")[2], re.M
    )
    for names, meaning in entries:
        for name in names.split(", "):
            found[name.strip()] = " ".join(meaning.split())
    return found


def described(texts: dict[str, str], name: str, hint: Any) -> str:
    if name in texts:
        return sentence(texts[name])
    for pattern, meaning in texts.items():
        if "*" in pattern and re.fullmatch(pattern.replace("*", ".*"), name):
            return sentence(meaning)
    below = [inner.__name__ for inner in inside(hint)]
    return f"see {' and '.join(below)} below" if below else name.replace("_", " ")


def sentence(text: str) -> str:
    return text.removesuffix(".").replace("``", "`")
