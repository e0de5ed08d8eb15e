"""The reference pages: one function each, which returns the page as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dynamo_cli import errors
from dynamo_cli.errors import ANTHROPIC_TYPES, DynamoError
from tests.reference import fields, metrics, options
from tests.support.layout import ROOT

NOTE = "<!-- Made from the code by `make reference`; a test compares. -->"
WIDTH = 105
NOT_SENT = (errors.UserError, errors.UsageError)


def path_of(name: str) -> Path:
    return ROOT.parent / "docs" / f"reference-{name}.md"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def page(title: str, intro: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", NOTE, prose(intro), *parts]) + "\n"


def prose(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_on_hyphens=False)


# -- options -----------------------------------------------------------------------------------


def options_page() -> str:
    parts = []
    for command, about, groups in options.commands():
        parts += [f"## {command}", prose(about)]
        for panel, rows in groups:
            if len(groups) > 1:
                parts.append(f"### {command}: {panel}")
            parts.append(table(("option", "what it does"), rows))
    intro = """
        All options of all commands, as their `--help` shows them. `dynamo-llm` without the name of
        a command serves. Each of its options can also stand
        [in a file or in the environment](operations.md#configuration), and every other option is
        passed on to vLLM's engine.
    """
    return page("Options", intro, *parts)


# -- metrics -----------------------------------------------------------------------------------


def metrics_page() -> str:
    found = list(metrics.families())

    def rows(prefix: str) -> list[tuple[str, str, str]]:
        return [
            (f"`{one.name}{labels(one)}`", one.kind, one.text)
            for one in found
            if one.name.startswith(prefix)
        ]

    def labels(one: metrics.Family) -> str:
        return f"{{{', '.join(one.labels)}}}" if one.labels else ""

    head = ("metric", "type", "what it is")
    intro = """
        Everything that `GET /metrics` can have. Some families are there only with what they are
        about: a router, prefill workers, a host cache, GPUs, or `--record`.
        [Operations](operations.md#metrics) says which to look at first.
    """
    return page(
        "Metrics",
        intro,
        "## Names of this program",
        table(head, rows("dynamo_llm_")),
        "## Names of vLLM",
        table(head, rows("vllm:")),
    )


# -- fields of /dynamo/* -----------------------------------------------------------------------


def fields_page() -> str:
    parts = []
    for path, about, root in fields.ROOTS:
        parts += [f"## {path}", prose(about)]
        for name, text, rows in fields.structs(root):
            if name != root.__name__:
                parts.append(f"### {path}: {name}")
            parts += [prose(text), table(("field", "type", "what it is"), rows)]
    intro = """
        What these paths return. The end of a name says its unit: `_s`, `_ms`, `_us`, `_tokens`,
        `_blocks`, `_bytes`, `_ratio` (0 to 1). A release may add fields. It renames or removes none
        without a line in [the changes](../CHANGELOG.md).
    """
    return page("Fields of /dynamo/*", intro, *parts)


# -- errors ------------------------------------------------------------------------------------


def errors_page() -> str:
    known = list(subclasses(DynamoError))
    answers = [
        (
            str(one.http_status),
            f"`{one.code}`" if one.code else "null",
            f"`{one.openai_type}`",
            f"`{anthropic(one.http_status)}`",
            first_line(one),
        )
        for one in sorted(known, key=lambda one: (one.http_status, one.code or ""))
        if (one.http_status != DynamoError.http_status or one.code) and one not in NOT_SENT
    ]
    exits = [
        (str(one.exit_code), f"`{one.__name__}`", first_line(one))
        for one in sorted(known, key=lambda one: (one.exit_code, one.__name__))
        if issubclass(one, errors.StartError | errors.UsageError | errors.ServerFailed)
        and one is not errors.StartError
    ]
    intro = """
        Each failure is a class of `dynamo_cli/errors.py`. Over HTTP it has a status, and a type and
        a code in the body. In the terminal it is one line and an exit code.
    """
    over_http = """
        A body is `{"error": {"message", "type", "param", "code"}}`, as OpenAI has it. On
        `/v1/messages` it has Anthropic's shape and type. What vLLM itself refuses has vLLM's
        message. Answers with 429 and 503 have `Retry-After` where it is known when to try again. A
        client that leaves before the end counts as 499.
    """
    counted = """
        `dynamo_llm_errors_total` counts by `kind`, which is the `code` of the answer, or its `type`
        where the code is null or a number. Logs and the dashboard name the same kind. Only for an
        internal error, `kind` is the class of what was raised.
    """
    in_terminal = """
        [Operations](operations.md#what-is-checked-before-anything-starts) explains the exit codes.
    """
    return page(
        "Errors",
        intro,
        "## Over HTTP",
        prose(over_http),
        table(("status", "code", "type", "Anthropic's type", "what happened"), answers),
        prose(counted),
        "## In the terminal",
        prose(in_terminal),
        table(("exit code", "class", "what happened"), exits),
    )


def anthropic(status: int) -> str:
    return ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def first_line(cls: type) -> str:
    return (cls.__doc__ or "").partition("\n")[0]


def subclasses(cls: type[DynamoError]) -> Iterable[type[DynamoError]]:
    for below in cls.__subclasses__():
        if below.__module__ == errors.__name__:
            yield below
            yield from subclasses(below)


PAGES: dict[str, Callable[[], str]] = {
    "options": options_page,
    "metrics": metrics_page,
    "fields": fields_page,
    "errors": errors_page,
}
