"""``dynamo-llm config``: show settings and where each came from, or write a settings file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamo_cli.cli.called import as_called
from dynamo_cli.cli.commands import SERVE_OPTIONS
from dynamo_cli.cli.declare import application, option
from dynamo_cli.errors import UsageError
from dynamo_cli.host import oserrors

if TYPE_CHECKING:
    from typer.core import TyperOption

FILE_NAME = "dynamo-llm.toml"

HEAD = """\
# Settings of dynamo-llm: dynamo-llm --config {file}
#
# Every setting is a comment that shows its default, or an example where it has none; take the "# "
# away to set it. The command line comes first, then the variable named beside it, then this file.
"""
ENGINE = """
# Options of vLLM's engine, by their names without dashes; DYNAMO_LLM_ENGINE_ARGS takes them as on
# the command line.
[engine]
# max-num-seqs = 64
# dtype = "float32"
# enforce-eager = true
# compilation-config = { mode = 0 }
"""

app = application(
    help="Settings from a file and from the environment.",
    no_args_is_help=True,
)


@app.command(context_settings=SERVE_OPTIONS)
def show(
    context: typer.Context,
    as_json: Annotated[bool, option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the value of each setting, and where it came from.

    Takes the options of serving: [b]dynamo-llm config show --config FILE --workers 2[/b]
    """
    rows = _rows(context.args)
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2, default=str) + "\n")
    else:
        _print(rows)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")] = Path(FILE_NAME),
    model: Annotated[
        str, option("--model", metavar="NAME", help="Set the model, so that the file can serve.")
    ] = "",
    force: Annotated[bool, option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a file in which every setting is explained, and nothing is set but a given model."""
    text = template(file, model)
    try:
        with file.open("w" if force else "x") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise UsageError(f"{file} is there already; --force overwrites it.") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {oserrors.reason(error)}.") from error
    hint = "" if model else " --model NAME"
    typer.echo(as_called(f"{file} is written; dynamo-llm --config {file}{hint} uses it."))


def _rows(args: list[str]) -> list[dict[str, Any]]:
    """A row for each setting, and for each option for vLLM that is given."""
    from dynamo_cli.cli import app as serving  # noqa: PLC0415 - it loads every option
    from dynamo_cli.cli import settings  # noqa: PLC0415

    context = serving.parse(args)
    rows = [
        _row(key, context.params[param.name], settings.origin_of(context, param.name))
        for key, param in settings.keys_of(context.command).items()
    ]
    for setting in settings.engine_settings(context):
        flag, *values = setting.given.words
        name, _, value = flag.removeprefix("--").partition("=")
        words = " ".join([value] if value else values)
        rows.append(_row(f"{settings.ENGINE_TABLE}.{name}", words or True, setting.origin))
    return rows


def _row(key: str, value: Any, origin: Any) -> dict[str, Any]:
    from dynamo_cli.cli import settings  # noqa: PLC0415

    if value and settings.is_secret(key):
        value = settings.MASK
    plain = list(value) if isinstance(value, list | tuple) else value
    return {"key": key, "value": plain, "from": origin.kind, "where": origin.where}


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE  # noqa: PLC0415 - help and JSON need none of it
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table("setting", "value", "from", box=SIMPLE, show_edge=False, pad_edge=False)
    for row in rows:
        origin = f"{row['from']} {row['where']}".strip()
        value = row["value"]
        text = ", ".join(map(str, value)) if isinstance(value, list) else _plain(value)
        table.add_row(row["key"], text, origin, style="dim" if origin == "default" else "")
    Console().print(table, highlight=False, markup=False)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def template(file: Path, model: str = "") -> str:
    """The text of a settings file in which everything is a comment, but for a given model."""
    from rich.text import Text  # noqa: PLC0415

    from dynamo_cli.cli import app as serving  # noqa: PLC0415
    from dynamo_cli.cli import settings  # noqa: PLC0415

    lines = [HEAD.format(file=file)]
    panel = ""
    for key, param in settings.keys_of(serving.command()).items():
        if param.rich_help_panel != panel:
            panel = str(param.rich_help_panel)
            lines.append(f"# -- {panel} {'-' * (90 - len(panel))}\n")
        lines += _comment(Text.from_markup(param.help or "").plain)
        value = f"# {key} = {_value(param)}"
        if model and key == "model":
            value = f"{key} = {json.dumps(model)}"
        lines.append(f"{value}    # {settings.variable_of(key)}\n")
    return "\n".join(lines) + ENGINE


def _comment(text: str) -> list[str]:
    import textwrap  # noqa: PLC0415

    return textwrap.wrap(text, 96, initial_indent="#   ", subsequent_indent="#   ")


def _value(param: TyperOption) -> str:
    """The default of a setting, or an example, in TOML."""
    default = getattr(param.default, "value", param.default)
    value = _example(param) if default in (None, "") else default
    return json.dumps([value] if param.multiple else value)


def _example(param: TyperOption) -> Any:
    if choices := param.type_descriptor.choices:
        return choices[-1]
    if param.type_descriptor.annotation in (int, float):
        return max(32, int(param.type_descriptor.parameter_info.min or 0))
    return param.metavar or "VALUE"
