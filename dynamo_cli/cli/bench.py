"""``dynamo-llm bench URL [URL2]``: put load on live OpenAI servers and report how they did."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dynamo_cli.cli import reports, terminal, traces
from dynamo_cli.cli.bench_options import (
    DEFAULT_CLIENTS,
    DEFAULT_REQUESTS,
    DEFAULT_ROUNDS,
    DEFAULT_WARMUP,
    BenchOptions,
)
from dynamo_cli.cli.declare import application, takes
from dynamo_cli.errors import ServerFailed, UsageError
from dynamo_cli.plan import limits

if TYPE_CHECKING:
    from dynamo_cli.lab.load.bench import Bench, BenchPlan
    from dynamo_cli.lab.load.client import Target
    from dynamo_cli.lab.load.pace import Bounds, Pace
    from dynamo_cli.lab.load.workload import WorkloadShape
    from dynamo_cli.lab.report import Slo
    from dynamo_cli.lab.trace.reading import TraceHints
    from dynamo_cli.lab.trace.trace import Trace

INTERRUPTED = 130

app = application()


@app.command()
@takes(BenchOptions)
def bench(options: BenchOptions) -> None:
    """Put load on a live OpenAI server and report how it did.

    Simulated users talk over shared system prompts, so that prompts form a tree of prefixes. With
    two servers, both get the same load in alternating rounds, and the table has the ratios within
    each round.
    """
    reports.refuse_two_forms(as_json=options.as_json, as_csv=options.as_csv)
    plan = _plan(options)
    servers = _servers(options.url, options.other_url, options.api_key or "")
    measured, code = _measure(plan, servers)
    slo = reports.slo_of(options.slo_ttft, options.slo_itl)
    _show(measured, slo, plan, as_json=options.as_json, as_csv=options.as_csv)
    raise typer.Exit(code)


def _plan(options: BenchOptions) -> BenchPlan:
    from dynamo_cli.lab.load.bench import BenchPlan  # noqa: PLC0415 - not for --help
    from dynamo_cli.lab.load.form import ApiPath  # noqa: PLC0415

    load = _load(options)
    warmup = 0 if options.trace else DEFAULT_WARMUP
    return BenchPlan(
        load=load,
        pace=_pace(options.concurrency, options.rate, options.speed, load),
        bounds=_bounds(options.requests, options.duration, load),
        scale=options.length_scale,
        rounds=options.rounds or (DEFAULT_ROUNDS if options.other_url else 1),
        warmup=warmup if options.warmup is None else options.warmup,
        seed=options.seed or secrets.token_hex(3),
        model=options.model,
        api=ApiPath[options.endpoint.name],
        timeout_s=options.timeout,
    )


def _load(options: BenchOptions) -> WorkloadShape | Trace:
    """The trace that is named, or the shape of conversations to make up."""
    from dynamo_cli.lab.load.workload import WorkloadShape  # noqa: PLC0415
    from dynamo_cli.lab.trace.reading import TOLD_NOTHING, TraceHints  # noqa: PLC0415

    told = TraceHints(options.form, options.block_size, options.time_unit)
    if options.trace is None and (options.speed, options.length_scale) != (1.0, 1.0):
        raise UsageError("--speed and --length-scale work only with --trace.")
    if options.trace is None and told != TOLD_NOTHING:
        raise UsageError("--format, --time-unit and --block-size work only with --trace.")
    lengths = (
        _range("--system-tokens", options.system_tokens),
        _range("--user-tokens", options.user_tokens),
        _range("--output-tokens", options.output_tokens),
    )
    if options.trace is not None:
        return _read(options.trace, told)
    return WorkloadShape(options.systems, options.sessions, options.turns, *lengths)


def _read(path: Path, told: TraceHints) -> Trace:
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
        raise UsageError(f"{flag} takes numbers from 1, the smaller one first; not {text!r}.")
    return ends


def _pace(
    concurrency: int | None, rate: float | None, speed: float, load: WorkloadShape | Trace
) -> Pace:
    from dynamo_cli.lab.load.pace import AsRecorded, Closed, Poisson  # noqa: PLC0415
    from dynamo_cli.lab.trace.trace import Trace  # noqa: PLC0415

    if concurrency is not None and rate is not None:
        raise UsageError(
            "choose one of --concurrency, which waits for answers, and --rate, which does not."
        )
    if rate is not None:
        return Poisson(rate)
    if concurrency is None and isinstance(load, Trace):
        return AsRecorded(speed)
    return Closed(concurrency or DEFAULT_CLIENTS)


def _bounds(requests: int | None, duration_s: float | None, load: WorkloadShape | Trace) -> Bounds:
    """When to stop: a trace ends by itself, made-up conversations go on until a bound."""
    from dynamo_cli.lab.load.pace import Bounds  # noqa: PLC0415
    from dynamo_cli.lab.trace.trace import Trace  # noqa: PLC0415

    if isinstance(load, Trace):
        return Bounds(min(requests or len(load.requests), len(load.requests)), duration_s)
    if requests is None and duration_s is None:
        requests = DEFAULT_REQUESTS
    return Bounds(requests, duration_s)


def _servers(url: str, other_url: str, api_key: str) -> dict[str, Target]:
    """The servers by their names in the table."""
    from dynamo_cli.lab.load.client import target  # noqa: PLC0415

    key = api_key.partition(",")[0]  # the variable may hold several keys, of which one will do
    servers = {}
    for each in filter(None, (url, other_url)):
        server = target(each, key)
        name = f"{server.host}:{server.port}"
        servers[f"{name} again" if name in servers else name] = server
    return servers


def _measure(plan: BenchPlan, servers: dict[str, Target]) -> tuple[Bench, int]:
    """Measure until the end, Ctrl-C, or until a server is gone.

    Returns:
        What was measured, and the exit code: 1 if a request failed.

    Raises:
        ServerFailed: a server does not answer like an OpenAI server, or no request succeeded.
    """
    import uvloop  # noqa: PLC0415

    from dynamo_cli.cli.progress import ProgressBar  # noqa: PLC0415
    from dynamo_cli.lab.load.bench import Bench  # noqa: PLC0415

    with ProgressBar(plan, len(servers)) as progress:
        measured = Bench(plan, servers, lambda: progress.show(measured))
        try:
            uvloop.run(measured.run())
        except KeyboardInterrupt:
            if not measured.answered:
                raise
            return measured, INTERRUPTED
        except ServerFailed as error:
            if measured.answered == measured.failed:
                raise
            measured.notices.append(error.message)
            return measured, error.exit_code
    if measured.answered == measured.failed:
        raise ServerFailed(f"no request succeeded. {' '.join(measured.remarks())}")
    if not measured.failed:
        return measured, 0
    measured.notices.append(f"{measured.failed} of {measured.answered} requests failed")
    return measured, ServerFailed.exit_code


def _show(measured: Bench, slo: Slo, plan: BenchPlan, *, as_json: bool, as_csv: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from dynamo_cli.lab import table  # noqa: PLC0415

    columns, ratios, remarks = measured.summaries(slo), measured.ratios(slo), measured.remarks()
    if as_json:
        rounds = measured.rounds(slo)
        text = table.as_json(
            columns, rounds=rounds, ratios=ratios, remarks=remarks, load=plan.header, seed=plan.seed
        )
        sys.stdout.write(text + "\n")
    elif as_csv:
        sys.stdout.write(table.as_csv(columns))
    else:
        console = Console()
        console.print(plan.header, highlight=False, markup=False, soft_wrap=True)
        console.print(table.table(columns, ratios=ratios))
    if not as_json:
        for remark in remarks:
            terminal.say(remark)
