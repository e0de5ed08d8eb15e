"""The commands ``dynamo-llm NAME``. Each is imported only when it is called."""

from __future__ import annotations

import difflib
import importlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import typer

from dynamo_cli.config import BUILT_IN_MODELS
from dynamo_cli.engines.vllm.options.hints import for_long_dash
from dynamo_cli.errors import UsageError


class Command(NamedTuple):
    """A command.

    Attributes:
        module: its module, whose ``app`` is its Typer application.
        help: one line for the help page.
    """

    module: str
    help: str


SERVE_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Context settings of serving, and of commands that take its options besides their own.

Typer lets through what it does not know: `engine_settings` tells options of vLLM from mistakes."""

SERVING = ("serve", "run", "start", "launch", "up")
"""Names of the command that serves in other tools."""

COMMANDS: dict[str, Command] = {
    "chat": Command("dynamo_cli.cli.chat", "Talk to a model."),
    "completions": Command("dynamo_cli.cli.completions", "Completion for bash, zsh or fish."),
    "top": Command("dynamo_cli.cli.top", "Watch a running server."),
    "bench": Command("dynamo_cli.cli.bench", "Put load on a live server and report how it did."),
    "replay": Command(
        "dynamo_cli.cli.replay", "Show what each router mode would do to a trace of requests."
    ),
    "profile": Command("dynamo_cli.cli.profile", "Measure an engine for the simulated one."),
    "config": Command("dynamo_cli.cli.configure", "Show settings, or write a file of them."),
    "doctor": Command("dynamo_cli.cli.doctor", "Check whether this machine can serve."),
}


_OF_DYNAMO_RUN = re.compile(r"(in|out)=")
"""Words of ``dynamo-run in=http out=vllm MODEL``."""


def epilog() -> str:
    """The list of commands for the end of the main help page."""
    width = max(map(len, COMMANDS))
    lines = [f"[b]{name:{width}}[/b]  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["Commands (dynamo-llm help NAME):", *lines])


def is_model(word: str) -> bool:
    """Whether the first word of a command line names a model instead of a command."""
    if word in COMMANDS or "=" in word:
        return False
    return (
        word in BUILT_IN_MODELS
        or "/" in word
        or word.endswith(".gguf")
        or Path(word, "config.json").is_file()
    )


def find(name: str, args: Sequence[str] = ()) -> typer.Typer:
    """The Typer application of a command.

    Args:
        args: the words after its name, for a hint.

    Raises:
        UsageError: there is no such command.
    """
    command = COMMANDS.get(name)
    if command is None:
        raise UsageError(_hint(name, args))
    app = importlib.import_module(command.module).app
    assert isinstance(app, typer.Typer)
    return app


def _hint(name: str, args: Sequence[str]) -> str:
    """An error for a first word that is not a command, with a guess at what was meant."""
    if name in SERVING or "=" in name:
        # dynamo-run: in=http out=vllm MODEL
        words = [word for word in args if not _OF_DYNAMO_RUN.match(word)]
        if not words or words[0].startswith("-"):
            words = words if "--model" in words else ["--model", "NAME", *words]
        return f"serving needs no command: dynamo-llm {shlex.join(words)}"
    if name == "version":
        return "no command 'version'; it is dynamo-llm --version."
    if Path(name).is_dir():
        return f"no command {name!r}; a folder is given with --model: dynamo-llm --model {name}."
    if long_dash := for_long_dash(name):
        return long_dash
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f" Did you mean {near[0]}?" if near else " A model is given with --model."
    return f"no command {name!r}; dynamo-llm --help lists them.{hint}"
