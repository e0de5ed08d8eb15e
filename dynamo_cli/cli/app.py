"""``dynamo-llm`` itself: parses the command line, then serves or runs a command."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Sequence, Set
from dataclasses import fields
from itertools import pairwise
from typing import Any, NoReturn, cast

import typer
from typer.core import TyperCommand

from dynamo_cli import PROGRAM
from dynamo_cli.cli import bad_value, commands, settings, terminal, vllm_environment
from dynamo_cli.cli.called import as_called
from dynamo_cli.cli.declare import application, takes
from dynamo_cli.cli.serve_options import ServeOptions
from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.errors import DynamoError, UsageError
from dynamo_cli.host import oserrors
from dynamo_cli.plan.typed import Typed

INTERRUPTED = 130
"""Exit code after Ctrl-C."""
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EPIPE)
"""Errors of a stream that cannot be written any more."""

HELP = ["--help", "-h"]
HELP_COMMAND = "help"
"""``dynamo-llm help NAME`` is ``dynamo-llm NAME --help``."""

TYPED = frozenset(field.name for field in fields(Typed))
"""Names of the options that decide how to serve."""


class ServeCommand(TyperCommand):
    """The command that serves.

    Every switch has a ``--no-`` form too, which overrides a settings file or a variable.
    """

    def make_parser(self, ctx: Any) -> Any:
        """The parser of the options, with their ``--no-`` forms."""
        parser = super().make_parser(ctx)
        for flag, param in settings.negations_of(self).items():
            parser.add_option(param, [flag], param.name, "store_const", const=False)
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse options, which may be written with underscores, as in vLLM.

        Raises:
            UsageError: an option is followed by another option instead of its value.
        """
        flags = {flag for param in self.params for flag in param.opts}
        args = [_dashed(arg, flags) for arg in args]
        taking = {
            flag
            for param in settings.keys_of(self).values()
            if not param.is_flag
            for flag in param.opts
        }
        for option, value in pairwise(args):
            if option in taking and (value in flags or value in declared.known()):
                raise UsageError(f"{option} needs a value.")
        return super().parse_args(ctx, args)


def _dashed(arg: str, flags: Set[str]) -> str:
    """``--http_port=1`` -> ``--http-port=1``, where that is one of the flags."""
    name, equals, value = arg.partition("=")
    dashed = name.replace("_", "-")
    return dashed + equals + value if dashed in flags else arg


app = application(context_settings=commands.SERVE_OPTIONS)


@app.command(name=PROGRAM, cls=ServeCommand, epilog=commands.epilog())
@takes(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Serve a large language model on this host, behind the OpenAI API.

    Every other option goes to vLLM's engine: [b]--max-num-seqs 64[/b], [b]--dtype=float32[/b] ...
    """
    typed = typed_of(options.context)  # report a misspelled option first, even a misspelled --model
    if not options.model.strip():
        raise UsageError("--model is missing; dynamo-llm demo is a good first try.")
    if options.as_json and not options.dry_run:
        raise UsageError("--json works only with --dry-run.")
    from dynamo_cli.cli import launch  # noqa: PLC0415 - --help and --version need none of it

    if options.dry_run:
        launch.show_plan(typed, as_json=options.as_json)
    else:
        raise typer.Exit(launch.serve(typed, options.ui))


def typed_of(context: typer.Context) -> Typed:
    """The options of the command line, the settings file and the environment together."""
    given = {name: value for name, value in context.params.items() if name in TYPED}
    return Typed(
        **given,
        keepalive_s=vllm_environment.keepalive_s(os.environ),
        engine_args=settings.engine_args(context),
    )


def command() -> TyperCommand:
    """The command that serves, with its parameters."""
    found = typer.main.get_command(app)
    assert isinstance(found, TyperCommand)
    return found


def parse(args: Sequence[str]) -> typer.Context:
    """Parse options of serving that another command was given, without serving."""
    return cast(typer.Context, command().make_context(PROGRAM, list(args)))


def run() -> NoReturn:
    """Run the command line; every failure becomes one line on standard error and an exit code."""
    # The kernel does not deliver SIGTERM to the first process of a container without a handler.
    signal.signal(signal.SIGTERM, _on_sigterm)
    terminal.settle()
    if terminal.leave_lost_folder():
        terminal.say(f"{PROGRAM}: the working directory is gone: relative paths begin at /")
    args = sys.argv[1:]
    try:
        if args and args[0] == HELP_COMMAND:
            args = [*args[1:], HELP[0]]
        if args and commands.is_model(args[0]):
            args = _with_model(*args)
        if args and not args[0].startswith("-"):
            code = _run_command(*args)
        else:
            code = app(args, standalone_mode=False, prog_name=PROGRAM, help_option_names=HELP)
    except DynamoError as error:
        _fail(error.message, error.exit_code)
    except typer.TyperException as error:
        _fail(bad_value.explain(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno in UNWRITTEN and error.filename is None:
            _cannot_write(error)
        if error.errno is None:
            raise
        _fail(oserrors.explain(error), oserrors.named(error).exit_code)
    if (unwritten := terminal.leave_output()) is not None:
        _cannot_write(unwritten)
    sys.exit(code)


def _with_model(model: str, *args: str) -> list[str]:
    """The options of serving where the model comes first: ``dynamo-llm demo --workers 2``."""
    if any(arg == "--model" or arg.startswith("--model=") for arg in args):
        raise UsageError(f"two models are given: {model}, and the one of --model; give only one.")
    return ["--model", model, *args]


def _run_command(name: str, *args: str) -> int | None:
    """Run one of `commands.COMMANDS`; returns its exit code, None for success."""
    command = typer.main.get_command(commands.find(name, args))
    _flow(command)
    found: int | None = command.main(
        args, f"{PROGRAM} {name}", standalone_mode=False, help_option_names=HELP
    )
    return found


def _flow(command: Any) -> None:
    """Join the lines of each paragraph of a command's help, so that it fills the width."""
    paragraphs = (command.help or "").split("\n\n")
    command.help = "\n\n".join(" ".join(text.split()) for text in paragraphs)
    for child in getattr(command, "commands", {}).values():
        _flow(child)


def _on_sigterm(number: int, frame: object) -> NoReturn:
    """End as after Ctrl-C. The supervisor replaces this handler when it runs."""
    sys.exit(128 + number)


def _cannot_write(error: OSError) -> NoReturn:
    """End because standard output cannot be written; silently if its reader has left."""
    terminal.leave_output()
    if isinstance(error, BrokenPipeError):
        sys.exit(1)
    _fail(f"cannot write to standard output: {oserrors.reason(error)}.", 1)


def _fail(message: str, code: int) -> NoReturn:
    if message:  # empty after the help that a group without a command shows
        terminal.say(f"{PROGRAM}: error: {as_called(' '.join(message.split()))}", "ERROR")
    sys.exit(code)
