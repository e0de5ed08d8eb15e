"""The options of all commands, from their declarations."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal, get_args, get_origin

import typer
from rich.text import Text

from dynamo_cli import PROGRAM
from dynamo_cli.cli import app
from dynamo_cli.cli import commands as declared

Groups = list[tuple[str, list[tuple[str, str]]]]
"""The rows of each panel of a help page."""


def commands() -> Iterator[tuple[str, str, Groups]]:
    """Each command with what it is for, and its options by panel."""
    yield PROGRAM, "Serves a model.", groups(app.command())
    for name in sorted(declared.COMMANDS):
        yield from below(f"{PROGRAM} {name}", typer.main.get_command(declared.find(name)))


def below(name: str, command: Any) -> Iterator[tuple[str, str, Groups]]:
    """A command, or the commands of a group."""
    inner = getattr(command, "commands", None)
    if inner:
        for each, found in inner.items():
            yield from below(f"{name} {each}", found)
        return
    about = plain(command.help or "").partition("\n\n")[0]
    found = groups(command)
    yield name, about, found or [("Options", [("`--help`", "Show this page and end.")])]


def groups(command: Any) -> Groups:
    found: dict[str, list[tuple[str, str]]] = {}
    for param in command.params:
        if getattr(param, "hidden", False) or param.name == "help":
            continue
        panel = getattr(param, "rich_help_panel", None) or "Options"
        found.setdefault(panel, []).append((shown(param), plain(param.help or "") + default(param)))
    return list(found.items())


def shown(param: Any) -> str:
    if param.param_type_name == "argument":
        return f"`{param.metavar or param.name.upper()}`"
    value = "" if param.is_flag else f" {metavar(param)}"
    return ", ".join(f"`{flag}{value}`" for flag in param.opts)


def metavar(param: Any) -> str:
    choices = values(param.type_descriptor.annotation)
    if param.metavar:
        return str(param.metavar)
    return "|".join(map(str, choices)) if choices else str(param.display_type).upper()


def values(annotation: Any) -> list[Any]:
    """The values of a choice: of a Literal or an enumeration, which may be optional."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [each.value for each in annotation]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [value for part in get_args(annotation) for value in values(part)]


def default(param: Any) -> str:
    """The default, where the text does not have it."""
    value = param.default
    if (
        callable(value)
        or value in (None, "", False, (), [])
        or "default" in (param.help or "").lower()
    ):
        return ""
    if param.param_type_name == "argument" or param.is_flag:
        return ""
    return f" Default: {getattr(value, 'value', value)}."


def plain(text: str) -> str:
    return Text.from_markup(text).plain.replace("\\[", "[").strip()
