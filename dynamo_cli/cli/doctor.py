"""``dynamo-llm doctor``: show whether this machine can serve, and what to do if not."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from dynamo_cli.cli.called import as_called
from dynamo_cli.cli.commands import SERVE_OPTIONS
from dynamo_cli.cli.declare import application, option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dynamo_cli.cluster_config import Survey
    from dynamo_cli.doctor.facts import Facts
    from dynamo_cli.doctor.finding import Finding
    from dynamo_cli.doctor.needs import Needs
    from dynamo_cli.plan.typed import Typed

GLYPHS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}

app = application(context_settings=SERVE_OPTIONS)


@app.command(context_settings=SERVE_OPTIONS)
def doctor(
    context: typer.Context,
    as_json: Annotated[bool, option("--json", help="Print JSON.")] = False,
) -> None:
    """Check whether this machine can serve, and say what to do if not.

    Takes the options of serving, and checks whether they can work:

    [b]dynamo-llm doctor --model demo --workers 2[/b]

    The exit code is 1 when serving cannot work.
    """
    from rich.console import Console  # noqa: PLC0415 - the help needs none of it

    from dynamo_cli.cli import app as serving  # noqa: PLC0415
    from dynamo_cli.doctor import gather, needs, rules  # noqa: PLC0415

    typed = serving.typed_of(serving.parse(context.args))
    nodes = _nodes(typed)
    with Console(stderr=True).status("trying vLLM, which takes ten seconds or more"):
        facts = gather.gather(typed, nodes.survey)
    findings = [*rules.judge(facts), *_cluster(typed, facts, nodes)]
    good = rules.can_serve(findings)
    if as_json:
        _print_json(findings, needs.needs_of(facts), good=good)
    else:
        _print(findings, good=good)
    raise typer.Exit(0 if good else 1)


@dataclass(frozen=True)
class _Nodes:
    """What the cluster says of its nodes; all empty without ``--ray``.

    Attributes:
        survey: None if it does not answer; `problem` then says why.
        differs: how the releases of each node differ from those here, by its name.
    """

    survey: Survey | None = None
    differs: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def _nodes(typed: Typed) -> _Nodes:
    """Ask the cluster, before anything that takes long."""
    if typed.ray is None:
        return _Nodes()
    from dynamo_cli.cluster.survey import checked  # noqa: PLC0415 - only with --ray
    from dynamo_cli.errors import ResourceError  # noqa: PLC0415
    from dynamo_cli.plan import resolve_cluster  # noqa: PLC0415

    resolve_cluster.check(typed)
    try:
        return _Nodes(*checked(typed.ray))
    except ResourceError as error:
        return _Nodes(problem=error.message)


def _cluster(typed: Typed, facts: Facts, nodes: _Nodes) -> Iterator[Finding]:
    """What there is to say of the nodes, with ``--ray``."""
    from dynamo_cli.doctor import cluster, finding  # noqa: PLC0415
    from dynamo_cli.plan.typed import MOCK  # noqa: PLC0415

    if nodes.problem:
        yield finding.fail(
            "cluster", nodes.problem, "ray start --head on one machine, see ray status"
        )
    if nodes.survey is not None:
        needs_gpu = facts.machine is not None and facts.machine.needs_gpu and typed.engine != MOCK
        yield from cluster.judge(nodes.survey, nodes.differs, facts.plan, needs_gpu=needs_gpu)


def _print(findings: list[Finding], *, good: bool) -> None:
    from rich.box import SIMPLE  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("", "check", "found", box=SIMPLE, show_edge=False, pad_edge=False)
    for finding in findings:
        glyph, style = GLYPHS[finding.level]
        found = Text(finding.message)
        if finding.remedy:
            found.append(f"\n-> {as_called(finding.remedy)}", style="bold")
        table.add_row(Text(f"{glyph} {finding.level}", style), finding.check, found)
    console = Console()
    console.print(table)
    worst = {finding.level for finding in findings}
    verdict = "Serving can work" + (", with warnings." if "warn" in worst else ".")
    console.print(verdict if good else "Serving cannot work until the failures are fixed.")


def _print_json(findings: list[Finding], needs: Needs | None, *, good: bool) -> None:
    said = {
        "ok": good,
        "findings": [asdict(finding) for finding in findings],
        "needs": {**asdict(needs), "tokens_fit": needs.tokens_fit} if needs else None,
    }
    sys.stdout.write(json.dumps(said, indent=2) + "\n")
