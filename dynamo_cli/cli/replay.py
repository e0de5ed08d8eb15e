"""``dynamo-llm replay TRACE``: what each router mode would do to a trace of requests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamo_cli.cli import traces
from dynamo_cli.errors import UsageError
from dynamo_cli.lab.trace.formats import MAX_BLOCK_SIZE, MAX_TOKENS, Format, TimeUnit
from dynamo_cli.plan import limits

if TYPE_CHECKING:
    from dynamo_cli.lab.replay.loop import Result
    from dynamo_cli.lab.replay.plan import Plan
    from dynamo_cli.lab.report import Summary
    from dynamo_cli.lab.trace.formats import Parser

REQUESTS, ENGINES, REPORT = "Requests", "Engines", "Report"
PROGRESS_EVERY = 50
MIN_SPEED, MAX_SPEED = 1e-4, 1e6
MAX_WORKERS = 4096
MAX_KV_BLOCKS = 10_000_000

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"max_content_width": 100},
)


def _option(*names: str, panel: str | None = None, help: str, **more: Any) -> Any:  # noqa: A002
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)


TraceFile = Annotated[
    Path,
    typer.Argument(
        metavar="TRACE",
        help="A file, a pipe, or - for standard input; gzip or not. JSON lines with lengths and "
        "hashes, as those of Mooncake, Qwen or --record, or with prompts; or a CSV file of Azure "
        "or BurstGPT.",
    ),
]
FormatOf = Annotated[Format, traces.form(REQUESTS)]
TimeUnitOf = Annotated[TimeUnit | None, traces.time_unit(REQUESTS)]
Policies = Annotated[
    str,
    _option(
        "--policy",
        metavar="A,B,...",
        help="Router modes, kv:COST, and other systems' rules; an unknown name lists them.",
    ),
]
Speeds = Annotated[
    str, _option("--speed", metavar="X,Y,...", help="Loads: 2 is the trace at twice its speed.")
]
Workers = Annotated[
    int,
    _option("--workers", panel=ENGINES, min=1, max=MAX_WORKERS, metavar="N", help="Engines."),
]
PrefillWorkers = Annotated[
    int,
    _option(
        "--prefill-workers",
        panel=ENGINES,
        min=0,
        max=MAX_WORKERS,
        metavar="N",
        help="Engines that only prefill.",
    ),
]
Conditional = Annotated[
    bool, _option("--conditional-disagg", panel=ENGINES, help="Send them only long prompts.")
]
MaxLocal = Annotated[
    int | None,
    _option(
        "--max-local-prefill-length",
        panel=ENGINES,
        min=0,
        callback=limits.at_most(limits.MAX_COUNT),
        metavar="TOKENS",
        help="Longer ones are sent (implies --conditional-disagg).",
    ),
]
ProfileName = Annotated[
    str,
    _option(
        "--profile",
        panel=ENGINES,
        metavar="NAME|FILE",
        help="How fast and large an engine is: cpu-tiny, gpu-8b, gpu-70b, or a file.",
    ),
]
KvBlocks = Annotated[
    int | None,
    _option(
        "--kv-blocks",
        panel=ENGINES,
        min=2,
        callback=limits.at_most(MAX_KV_BLOCKS),
        metavar="N",
        help="Of each engine. Default: the profile's.",
    ),
]
BlockSize = Annotated[
    int | None,
    _option(
        "--block-size",
        panel=ENGINES,
        min=1,
        callback=limits.at_most(MAX_BLOCK_SIZE),
        metavar="N",
        help="Tokens. Default: the trace's, whose blocks are divided into smaller ones, or have "
        "this size if nothing else tells theirs.",
    ),
]
TokenizerOf = Annotated[
    str, _option("--tokenizer", panel=REQUESTS, metavar="MODEL", help="For prompts.")
]
Rate = Annotated[
    float,
    _option(
        "--rate",
        panel=REQUESTS,
        min=0.001,
        max=1e6,
        metavar="PER_S",
        help="Of prompts without timestamp.",
    ),
]
OutputTokens = Annotated[
    int,
    _option(
        "--output-tokens",
        panel=REQUESTS,
        min=1,
        max=MAX_TOKENS,
        help="Of prompts without max_tokens.",
    ),
]
Seed = Annotated[int, _option("--seed", help="Of all dice.")]
SloTtft = Annotated[
    float | None,
    _option(
        "--slo-ttft",
        panel=REPORT,
        min=0,
        callback=limits.at_most(limits.MAX_MILLISECONDS),
        metavar="MS",
        help="Goodput: first token.",
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
        help="Goodput: mean between tokens.",
    ),
]
AsJson = Annotated[bool, _option("--json", panel=REPORT, help="JSON instead of tables.")]
AsCsv = Annotated[bool, _option("--csv", panel=REPORT, help="CSV instead of tables.")]
PlotFile = Annotated[
    Path | None,
    _option("--plot", panel=REPORT, metavar="FILE.svg|png", help="Hit rates, and TTFT as curves."),
]


@app.command()
def replay(
    trace: TraceFile,
    form: FormatOf = Format.AUTO,
    time_unit: TimeUnitOf = None,
    policy: Policies = "round-robin,least-loaded,kv",
    speed: Speeds = "1",
    workers: Workers = 8,
    prefill_workers: PrefillWorkers = 0,
    conditional: Conditional = False,
    max_local: MaxLocal = None,
    profile: ProfileName = "gpu-8b",
    kv_blocks: KvBlocks = None,
    block_size: BlockSize = None,
    tokenizer: TokenizerOf = "",
    rate: Rate = 1.0,
    output_tokens: OutputTokens = 128,
    seed: Seed = 0,
    slo_ttft: SloTtft = None,
    slo_itl: SloItl = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    plot: PlotFile = None,
) -> None:
    """Show what each router mode would do to a trace of requests, with simulated engines.

    The policies are those that serve; engines keep their blocks as vLLM does and take the time
    that a profile says. Nothing is started, and the same seed gives the same numbers.
    """
    from dynamo_cli.config import DEFAULT_MAX_LOCAL_PREFILL_LENGTH, PlacementRule  # noqa: PLC0415
    from dynamo_cli.engines.mock.profile import load  # noqa: PLC0415 - not for --help
    from dynamo_cli.lab.replay import plan as plans  # noqa: PLC0415
    from dynamo_cli.lab.replay import plot as plots  # noqa: PLC0415
    from dynamo_cli.lab.report import MS, Slo  # noqa: PLC0415
    from dynamo_cli.lab.trace.reading import Told, read  # noqa: PLC0415
    from dynamo_cli.lab.trace.trace import with_block_size  # noqa: PLC0415

    if as_json and as_csv:
        raise UsageError("--json and --csv are two ways to say the same; take one.")
    if plot is not None:
        plots.check(plot)
    words = filter(None, policy.replace(" ", "").split(","))
    names = tuple(dict.fromkeys(plans.named(word) for word in words))
    if not names:
        raise UsageError("--policy names at least one policy.")
    speeds = _speeds(speed)
    engine = load(profile)
    size = block_size or engine.block_size
    found = read(
        trace,
        Told(form, block_size, time_unit),
        engine_block_size=size,
        prompts=lambda: _prompts(tokenizer, size, output_tokens, rate, seed),
    )
    found = with_block_size(found, block_size or found.block_size)
    length = DEFAULT_MAX_LOCAL_PREFILL_LENGTH if max_local is None else max_local
    plan = plans.Plan(
        trace=found,
        profile=plans.sized(engine, found.block_size, kv_blocks),
        policies=names,
        speeds=speeds,
        workers=workers,
        prefill_workers=prefill_workers,
        rule=PlacementRule(conditional or max_local is not None, length),
        seed=seed,
    )
    traces.tell(found)
    results = _run(plan)
    slo = Slo(*(None if bound is None else bound / MS for bound in (slo_ttft, slo_itl)))
    _show(plan, plans.summaries(plan, results, slo), as_json=as_json, as_csv=as_csv)
    if plot is not None:
        loads = [{name: one.outcomes for name, one in load.items()} for load in results]
        plots.draw(plot, _title(plan), plan.speeds, loads)


def _speeds(text: str) -> tuple[float, ...]:
    try:
        speeds = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--speed is numbers like 0.5,1,2, not {text!r}.") from error
    if not all(MIN_SPEED <= speed <= MAX_SPEED for speed in speeds):
        raise UsageError(f"--speed is from {MIN_SPEED:g} to {MAX_SPEED:g}, not {text!r}.")
    return speeds


def _prompts(tokenizer: str, block_size: int, output_tokens: int, rate: float, seed: int) -> Parser:
    from dynamo_cli.lab.trace import prompts  # noqa: PLC0415

    if not tokenizer:
        raise ValueError("it has a prompt: name its model with --tokenizer")
    return prompts.Prompts(
        prompts.tokenizer(tokenizer, _folder(tokenizer)),
        block_size=block_size,
        output_tokens=output_tokens,
        rate_per_s=rate,
        seed=seed,
    )


def _folder(model: str) -> str:
    from dynamo_cli.models import catalog  # noqa: PLC0415

    return catalog.resolve(model, lambda _: None).path


def _run(plan: Plan) -> list[dict[str, Result]]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    from dynamo_cli.lab.replay import plan as plans  # noqa: PLC0415

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    count = len(plan.trace.requests)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        tasks = {
            (name, speed): bar.add_task(f"{name} at speed {speed:g}", total=count)
            for speed in plan.speeds
            for name in plan.policies
        }

        def progress(name: str, speed: float, done: int) -> None:
            if not done % PROGRESS_EVERY or done == count:
                bar.update(tasks[name, speed], completed=done)

        return plans.run(plan, progress)


def _title(plan: Plan) -> str:
    side = f" and {plan.prefill_workers} prefill workers" if plan.prefill_workers else ""
    return f"{plan.trace.name}, {plan.workers} workers{side} like {plan.profile.name}"


def _show(plan: Plan, loads: list[dict[str, Summary]], *, as_json: bool, as_csv: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from dynamo_cli.lab import table  # noqa: PLC0415
    from dynamo_cli.lab.replay.routers import SERVED  # noqa: PLC0415
    from dynamo_cli.lab.replay.verdict import verdict  # noqa: PLC0415

    line = verdict(loads, list(SERVED))
    named = {
        f"{name} at {speed:g}": summary
        for speed, load in zip(plan.speeds, loads, strict=True)
        for name, summary in load.items()
    }
    if as_json:
        sys.stdout.write(table.as_json(named, trace=plan.trace.name, verdict=line) + "\n")
        return
    if as_csv:
        sys.stdout.write(table.as_csv(named))
        return
    console = Console()
    for speed, load in zip(plan.speeds, loads, strict=True):
        console.print(table.table(load, f"{_title(plan)}, speed {speed:g}"))
        console.print()
    console.print(line, highlight=False)
