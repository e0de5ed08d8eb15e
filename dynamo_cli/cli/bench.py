"""``dynamo-llm bench URL [URL2]``: load on a live OpenAI server, and what came of it."""

from __future__ import annotations

import secrets
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamo_cli.cli import terminal, traces
from dynamo_cli.errors import ServerFailed, UsageError
from dynamo_cli.lab.trace.formats import MAX_BLOCK_SIZE, Format, TimeUnit
from dynamo_cli.plan import limits

if TYPE_CHECKING:
    from dynamo_cli.lab.load.bench import Bench, Plan
    from dynamo_cli.lab.load.client import Target
    from dynamo_cli.lab.load.pace import Bounds, Pace
    from dynamo_cli.lab.load.workload import Shape
    from dynamo_cli.lab.report import Slo
    from dynamo_cli.lab.trace.reading import Told
    from dynamo_cli.lab.trace.trace import Trace

API_KEY_VARIABLES = ["DYNAMO_LLM_API_KEY", "VLLM_API_KEY"]
LOAD, PACE, END, REPORT = "Load", "Pace", "End", "Report"
DEFAULT_CLIENTS = 8
DEFAULT_REQUESTS = 200
DEFAULT_ROUNDS = 5
DEFAULT_WARMUP = 8
INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"max_content_width": 100},
)


class Endpoint(StrEnum):
    """Which of OpenAI's is asked."""

    CHAT = "chat"
    COMPLETIONS = "completions"


def _option(*names: str, panel: str | None = None, help: str, **more: Any) -> Any:  # noqa: A002
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)


Url = Annotated[str, typer.Argument(help="Of a server, http://127.0.0.1:8181 for instance.")]
OtherUrl = Annotated[
    str, typer.Argument(help="Of a second one: both get the same load in turns.", metavar="URL2")
]
Model = Annotated[
    str, _option("--model", metavar="NAME", help="Default: the first that the server lists.")
]
ApiKey = Annotated[
    str | None,
    _option("--api-key", metavar="KEY", help="For the servers.", envvar=API_KEY_VARIABLES),
]
WhichEndpoint = Annotated[Endpoint, _option("--endpoint", help="Which of OpenAI's is asked.")]
Systems = Annotated[
    int,
    _option(
        "--systems",
        panel=LOAD,
        min=1,
        callback=limits.at_most(limits.MAX_COUNT),
        help="System prompts: width of the tree.",
    ),
]
Sessions = Annotated[
    int,
    _option(
        "--sessions",
        panel=LOAD,
        min=1,
        callback=limits.at_most(limits.MAX_COUNT),
        help="Conversations over each of them at once.",
    ),
]
Turns = Annotated[
    int,
    _option(
        "--turns",
        panel=LOAD,
        min=1,
        callback=limits.at_most(limits.MAX_COUNT),
        help="Of each conversation: depth of the tree.",
    ),
]
SystemTokens = Annotated[
    str, _option("--system-tokens", panel=LOAD, metavar="N|A:B", help="Of a system prompt.")
]
UserTokens = Annotated[
    str, _option("--user-tokens", panel=LOAD, metavar="N|A:B", help="Of what a user says.")
]
OutputTokens = Annotated[
    str, _option("--output-tokens", panel=LOAD, metavar="N|A:B", help="Of an answer.")
]
TraceFile = Annotated[
    Path | None,
    _option(
        "--trace",
        panel=LOAD,
        metavar="FILE",
        help="Instead: the requests of a trace, as [b]replay[/b] takes them, but no prompts.",
    ),
]
FormatOf = Annotated[Format, traces.form(LOAD)]
TimeUnitOf = Annotated[TimeUnit | None, traces.time_unit(LOAD)]
BlockSize = Annotated[
    int | None,
    _option(
        "--block-size",
        panel=LOAD,
        min=1,
        max=MAX_BLOCK_SIZE,
        metavar="N",
        help="Of a trace: tokens per hash, if nothing else tells.",
    ),
]
Scale = Annotated[
    float,
    _option(
        "--length-scale",
        panel=LOAD,
        min=0.0001,
        max=1000,
        help="Of a trace: 0.1 makes prompts and answers a tenth as long.",
    ),
]
Seed = Annotated[
    str | None,
    _option(
        "--seed",
        panel=LOAD,
        help="Of words, lengths and arrivals. Default: a new one, which no cache has seen.",
    ),
]
Concurrency = Annotated[
    int | None,
    _option(
        "--concurrency",
        panel=PACE,
        min=1,
        callback=limits.at_most(limits.MAX_PROCESSES),
        metavar="N",
        help=f"Clients that wait for their answers. [dim]\\[default: {DEFAULT_CLIENTS}][/dim]",
    ),
]
Rate = Annotated[
    float | None,
    _option(
        "--rate",
        panel=PACE,
        min=0.001,
        max=1e6,
        metavar="PER_S",
        help="Requests per second at random times (Poisson), whatever the answers take.",
    ),
]
Speed = Annotated[
    float,
    _option(
        "--speed",
        panel=PACE,
        min=0.0001,
        max=1e6,
        help="Of a trace, so many times as fast as it was; without --concurrency and --rate.",
    ),
]
Requests = Annotated[
    int | None,
    _option(
        "--requests",
        panel=END,
        min=1,
        callback=limits.at_most(limits.MAX_COUNT),
        metavar="N",
        help=f"After so many for each server. [dim]\\[default: {DEFAULT_REQUESTS}][/dim]",
    ),
]
Duration = Annotated[
    float | None,
    _option(
        "--duration",
        panel=END,
        min=0.1,
        callback=limits.at_most(limits.MAX_SECONDS),
        metavar="SECONDS",
        help="After so long for each server; answers under way are awaited.",
    ),
]
Timeout = Annotated[
    float,
    _option(
        "--timeout",
        panel=END,
        min=0.1,
        callback=limits.at_most(limits.MAX_SECONDS),
        metavar="SECONDS",
        help="For one answer.",
    ),
]
Rounds = Annotated[
    int | None,
    _option(
        "--rounds",
        panel=END,
        min=1,
        callback=limits.at_most(limits.MAX_COUNT),
        metavar="N",
        help="Parts into which the load is cut; ratios are taken within each. "
        f"[dim]\\[default: {DEFAULT_ROUNDS} with two servers][/dim]",
    ),
]
Warmup = Annotated[
    int | None,
    _option(
        "--warmup",
        panel=END,
        min=0,
        callback=limits.at_most(limits.MAX_COUNT),
        metavar="N",
        help=f"First requests, which do not count. [dim]\\[default: {DEFAULT_WARMUP}, of a trace 0]"
        "[/dim]",
    ),
]
SloTtft = Annotated[
    float | None,
    _option(
        "--slo-ttft",
        panel=REPORT,
        min=0,
        callback=limits.at_most(limits.MAX_MILLISECONDS),
        metavar="MS",
        help="Goodput: most until a first token.",
    ),
]
SloItl = Annotated[
    float | None,
    _option(
        "--slo-itl",
        panel=REPORT,
        min=0,
        callback=limits.at_most(limits.MAX_MILLISECONDS),
        metavar="MS",
        help="Goodput: most between tokens, in the mean of a request.",
    ),
]
AsJson = Annotated[bool, _option("--json", panel=REPORT, help="JSON instead of a table.")]
AsCsv = Annotated[bool, _option("--csv", panel=REPORT, help="CSV instead of a table.")]


@app.command()
def bench(
    url: Url,
    other_url: OtherUrl = "",
    model: Model = "",
    api_key: ApiKey = None,
    endpoint: WhichEndpoint = Endpoint.CHAT,
    systems: Systems = 8,
    sessions: Sessions = 4,
    turns: Turns = 4,
    system_tokens: SystemTokens = "400:600",
    user_tokens: UserTokens = "30:80",
    output_tokens: OutputTokens = "16:32",
    trace: TraceFile = None,
    form: FormatOf = Format.AUTO,
    time_unit: TimeUnitOf = None,
    block_size: BlockSize = None,
    length_scale: Scale = 1.0,
    seed: Seed = None,
    concurrency: Concurrency = None,
    rate: Rate = None,
    speed: Speed = 1.0,
    requests: Requests = None,
    duration: Duration = None,
    timeout: Timeout = 600.0,
    rounds: Rounds = None,
    warmup: Warmup = None,
    slo_ttft: SloTtft = None,
    slo_itl: SloItl = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Put load on a live OpenAI server and show what came of it.

    Users talk over shared system prompts: a tree of prefixes. With two servers both get the same
    load, a part of it in turns, and the table has the ratios within each turn.
    """
    from dynamo_cli.lab.load.bench import Plan  # noqa: PLC0415 - not for --help
    from dynamo_cli.lab.load.form import Api  # noqa: PLC0415
    from dynamo_cli.lab.load.workload import Shape  # noqa: PLC0415
    from dynamo_cli.lab.report import MS, Slo  # noqa: PLC0415
    from dynamo_cli.lab.trace.reading import TOLD_NOTHING, Told  # noqa: PLC0415

    if as_json and as_csv:
        raise UsageError("--json and --csv are two ways to say the same; take one.")
    if trace is None and (speed, length_scale) != (1.0, 1.0):
        raise UsageError("--speed and --length-scale belong to --trace.")
    told = Told(form, block_size, time_unit)
    if trace is None and told != TOLD_NOTHING:
        raise UsageError("--format, --time-unit and --block-size belong to --trace.")
    lengths = (
        _range("--system-tokens", system_tokens),
        _range("--user-tokens", user_tokens),
        _range("--output-tokens", output_tokens),
    )
    load = _read(trace, told) if trace else Shape(systems, sessions, turns, *lengths)
    plan = Plan(
        load=load,
        pace=_pace(concurrency, rate, speed, load),
        bounds=_bounds(requests, duration, load),
        scale=length_scale,
        rounds=rounds or (DEFAULT_ROUNDS if other_url else 1),
        warmup=(0 if trace else DEFAULT_WARMUP) if warmup is None else warmup,
        seed=seed or secrets.token_hex(3),
        model=model,
        api=Api[endpoint.name],
        timeout_s=timeout,
    )
    slo = Slo(*(None if bound is None else bound / MS for bound in (slo_ttft, slo_itl)))
    measured, code = _measure(plan, _servers(url, other_url, api_key or ""))
    _show(measured, slo, plan.seed, as_json=as_json, as_csv=as_csv)
    raise typer.Exit(code)


def _read(path: Path, told: Told) -> Trace:
    from dynamo_cli.lab.trace.reading import read  # noqa: PLC0415

    trace = read(path, told)
    if told.block_size not in (None, trace.block_size):
        raise UsageError(f"{path} has blocks of {trace.block_size} tokens, not {told.block_size}.")
    traces.tell(trace)
    return trace


def _range(flag: str, text: str) -> tuple[int, int]:
    low, _, high = text.partition(":")
    try:
        ends = int(low), int(high or low)
    except ValueError as error:
        raise UsageError(f"{flag} is a number or a range like 30:80, not {text!r}.") from error
    if not 1 <= ends[0] <= ends[1] <= limits.MAX_COUNT:
        raise UsageError(f"{flag} goes from 1 on, the smaller number first; not {text!r}.")
    return ends


def _pace(concurrency: int | None, rate: float | None, speed: float, load: Shape | Trace) -> Pace:
    from dynamo_cli.lab.load.pace import AsRecorded, Closed, Poisson  # noqa: PLC0415
    from dynamo_cli.lab.trace.trace import Trace  # noqa: PLC0415

    if concurrency is not None and rate is not None:
        raise UsageError("--concurrency waits for answers and --rate does not; take one.")
    if rate is not None:
        return Poisson(rate)
    if concurrency is None and isinstance(load, Trace):
        return AsRecorded(speed)
    return Closed(concurrency or DEFAULT_CLIENTS)


def _bounds(requests: int | None, duration_s: float | None, load: Shape | Trace) -> Bounds:
    """A trace ends by itself; talks go on."""
    from dynamo_cli.lab.load.pace import Bounds  # noqa: PLC0415
    from dynamo_cli.lab.trace.trace import Trace  # noqa: PLC0415

    if isinstance(load, Trace):
        return Bounds(min(requests or len(load.requests), len(load.requests)), duration_s)
    if requests is None and duration_s is None:
        requests = DEFAULT_REQUESTS
    return Bounds(requests, duration_s)


def _servers(url: str, other_url: str, api_key: str) -> dict[str, Target]:
    """By the names that they have in the table."""
    from dynamo_cli.lab.load.client import target  # noqa: PLC0415

    key = api_key.partition(",")[0]  # the variable holds all that a server takes
    servers = {}
    for each in filter(None, (url, other_url)):
        server = target(each, key)
        name = f"{server.host}:{server.port}"
        servers[f"{name} again" if name in servers else name] = server
    return servers


def _measure(plan: Plan, servers: dict[str, Target]) -> tuple[Bench, int]:
    """What there is in the end, or at Ctrl-C, and the exit code."""
    import uvloop  # noqa: PLC0415

    from dynamo_cli.cli.progress import Progress  # noqa: PLC0415
    from dynamo_cli.lab.load.bench import Bench  # noqa: PLC0415

    with Progress(plan, len(servers)) as progress:
        measured = Bench(plan, servers, lambda: progress.show(measured))
        try:
            uvloop.run(measured.run())
        except KeyboardInterrupt:
            if not measured.answered:
                raise
            return measured, INTERRUPTED
    if measured.answered == measured.failed:
        raise ServerFailed(f"no request was answered well. {' '.join(measured.remarks())}")
    return measured, 0


def _show(measured: Bench, slo: Slo, seed: str, *, as_json: bool, as_csv: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from dynamo_cli.lab import table  # noqa: PLC0415

    columns, ratios, remarks = measured.summaries(slo), measured.ratios(slo), measured.remarks()
    if as_json:
        rounds = measured.rounds(slo)
        text = table.as_json(columns, rounds=rounds, ratios=ratios, remarks=remarks, seed=seed)
        sys.stdout.write(text + "\n")
    elif as_csv:
        sys.stdout.write(table.as_csv(columns))
    else:
        console = Console()
        console.print(table.table(columns, ratios=ratios))
        typer.echo(f"--seed {seed} says the same again")
    if not as_json:
        for remark in remarks:
            terminal.say(remark)
