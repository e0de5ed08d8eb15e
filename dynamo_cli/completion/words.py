"""Collects what a shell can complete: commands, their options, and the kinds of their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rich.text import Text
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from dynamo_cli.engines.mock.profile import built_in
from dynamo_cli.engines.vllm.options import declared

HELP_WIDTH = 72


class CompletionKind(StrEnum):
    """Kinds of values."""

    NONE = "none"  # a switch has no value
    WORD = "word"  # any text
    CHOICE = "choice"
    MODEL = "model"  # a name in the cache of the hub, or a folder
    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class CompletionValue:
    """The value of an option or an argument.

    Attributes:
        words: the words that it may be; with `CompletionKind.FILE` in addition to files.
        optional: it may be left out.
        many: it may be given more than once.
    """

    kind: CompletionKind
    words: tuple[str, ...] = ()
    optional: bool = False
    many: bool = False


@dataclass(frozen=True, slots=True)
class CompletionOption:
    """An option.

    Attributes:
        flags: its long names.
        help: one short line.
    """

    flags: tuple[str, ...]
    help: str
    value: CompletionValue


@dataclass(frozen=True, slots=True)
class CompletionCommand:
    """A command, or a group of commands.

    Attributes:
        path: the words that lead to it; none for the command that serves.
        serves: it takes the options of serving, and so those of vLLM, besides its own.
    """

    path: tuple[str, ...]
    help: str
    options: tuple[CompletionOption, ...] = ()
    arguments: tuple[CompletionValue, ...] = ()
    children: tuple[CompletionCommand, ...] = ()
    serves: bool = False

    def walk(self) -> Iterator[CompletionCommand]:
        """This command and all commands below it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True, slots=True)
class CompletionWords:
    """Everything that can be completed.

    Attributes:
        serving: the command that serves, above all others.
        engine: options of vLLM, which commands that serve take too.
    """

    serving: CompletionCommand
    engine: tuple[CompletionOption, ...]


MODELS = ("--model", "--tokenizer", "--spec-model")
FOLDERS = ("--download-dir", "--allowed-local-media-path", "--hf-config-path")
FILES = (
    "--chat-template",
    "--tool-parser-plugin",
    "--reasoning-parser-plugin",
    "--mm-encoder-fp8-scale-path",
    "--mm-encoder-fp8-scale-save-path",
)
PROFILES = ("--profile", "--engine-profile")
"""Options whose declarations do not tell what kind of value they take."""


def read(
    serving: TyperCommand, negations: Mapping[str, str], others: Iterable[tuple[str, str, Any]]
) -> CompletionWords:
    """Read the declarations of all commands.

    Args:
        serving: the command without a name, which serves.
        negations: by the name of a parameter of `serving`, the ``--no-`` flag that it takes
            although its declaration does not list it.
        others: name, one line of help and the Typer command of each other command.
    """
    children = [_command((name,), text, command) for name, text, command in others]
    command = _command((), "", serving, tuple(children), negations)
    own = {flag for option in command.options for flag in option.flags}
    engine = [_engine_option(option) for option in declared.passed_on()]
    return CompletionWords(command, tuple(option for option in engine if not own & {*option.flags}))


def _command(
    path: tuple[str, ...],
    text: str,
    command: Any,
    children: tuple[CompletionCommand, ...] = (),
    negations: Mapping[str, str] | None = None,
) -> CompletionCommand:
    params = [param for param in command.params if not getattr(param, "hidden", False)]
    if isinstance(command, TyperGroup):
        children = tuple(
            _command((*path, name), child.get_short_help_str(HELP_WIDTH), child)
            for name, child in command.commands.items()
            if not child.hidden
        )
    found = [_option(param, negations or {}) for param in params if isinstance(param, TyperOption)]
    help_option = CompletionOption(
        ("--help",), "Show the help", CompletionValue(CompletionKind.NONE)
    )
    return CompletionCommand(
        path,
        _short(text),
        (*found, help_option),
        tuple(_value(param, ()) for param in params if isinstance(param, TyperArgument)),
        children,
        serves=bool(command.context_settings.get("ignore_unknown_options")),
    )


def _option(param: TyperOption, negations: Mapping[str, str]) -> CompletionOption:
    flags = [flag for flag in (*param.opts, *param.secondary_opts) if flag.startswith("--")]
    if param.name in negations:
        flags.append(negations[param.name])
    return CompletionOption(tuple(flags), _short(param.help or ""), _value(param, flags))


def _value(
    param: TyperOption | TyperArgument, flags: list[str] | tuple[str, ...]
) -> CompletionValue:
    described = param.type_descriptor
    many = param.multiple or param.nargs == -1
    if getattr(param, "is_flag", False):
        return CompletionValue(CompletionKind.NONE)
    if described.choices:
        words = (str(getattr(choice, "value", choice)) for choice in described.choices)
        return CompletionValue(CompletionKind.CHOICE, tuple(words), many=many)
    if described.is_path:
        return CompletionValue(
            CompletionKind.FOLDER if described.path_type == "dir" else CompletionKind.FILE,
            many=many,
        )
    if "FILE" in (param.metavar or "") and not {*flags} & {*PROFILES}:
        return CompletionValue(CompletionKind.FILE, many=many)
    return _by_name(flags, many=many)


def _by_name(
    flags: list[str] | tuple[str, ...], *, many: bool, optional: bool = False
) -> CompletionValue:
    words: tuple[str, ...] = ()
    kind = CompletionKind.WORD
    if any(flag in MODELS for flag in flags):
        kind = CompletionKind.MODEL
    elif any(flag in FILES for flag in flags):
        kind = CompletionKind.FILE
    elif any(flag in FOLDERS for flag in flags):
        kind = CompletionKind.FOLDER
    elif any(flag in PROFILES for flag in flags):
        kind, words = CompletionKind.FILE, tuple(built_in())
    return CompletionValue(kind, words, optional, many)


def _engine_option(option: declared.VllmOption) -> CompletionOption:
    flags = [flag for flag in option.flags if flag.startswith("--")]
    many, optional = option.values == "+", option.values == "?"
    if option.values == "0":
        value = CompletionValue(CompletionKind.NONE)
    elif option.choices:
        value = CompletionValue(CompletionKind.CHOICE, tuple(option.choices), optional, many)
    else:
        value = _by_name(flags, many=many, optional=optional)
    # The help of some options of vLLM only explains the syntax of JSON.
    text = "" if option.help.startswith(("API docs", "Should either be")) else option.help
    return CompletionOption(tuple(flags), _short(text) or f"vLLM: {option.group}", value)


def _short(text: str) -> str:
    """The first sentence of a help text, without markup, cut to fit beside an option."""
    plain = " ".join(Text.from_markup(text).plain.split()).split(". ")[0].rstrip(".")
    return plain if len(plain) <= HELP_WIDTH else plain[: HELP_WIDTH - 3].rstrip() + "..."
