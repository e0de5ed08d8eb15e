"""``dynamo-llm NAME``: everything beside serving, each loaded only when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from typing import NamedTuple

import typer

from dynamo_cli.errors import UsageError


class Command(NamedTuple):
    """A command.

    Attributes:
        module: of which ``app`` is its Typer application.
        help: one line for people.
    """

    module: str
    help: str


SERVE_OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""Settings of a command that takes the options of serving besides its own."""

COMMANDS: dict[str, Command] = {
    "completions": Command("dynamo_cli.cli.completions", "Completion for bash, zsh or fish."),
    "top": Command("dynamo_cli.cli.top", "Watch a running server."),
    "bench": Command("dynamo_cli.cli.bench", "Put load on a live server and show what came of it."),
    "replay": Command(
        "dynamo_cli.cli.replay", "Show what each router mode would do to a trace of requests."
    ),
    "profile": Command("dynamo_cli.cli.profile", "Measure an engine for the simulated one."),
    "config": Command("dynamo_cli.cli.configure", "Show settings, or write a file of them."),
    "doctor": Command("dynamo_cli.cli.doctor", "Check whether this machine can serve."),
}


def epilog() -> str:
    """The commands, for the end of the help of serving."""
    width = max(map(len, COMMANDS))
    lines = [f"[b]{name:{width}}[/b]  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["Commands (dynamo-llm NAME --help):", *lines])


def find(name: str) -> typer.Typer:
    """The application of a command.

    Raises:
        UsageError: there is no such command.
    """
    command = COMMANDS.get(name)
    if command is None:
        if name == "serve":
            raise UsageError("serving needs no command: dynamo-llm --model NAME.")
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"no command {name!r}; dynamo-llm --help lists them.{hint}")
    app = importlib.import_module(command.module).app
    assert isinstance(app, typer.Typer)
    return app
