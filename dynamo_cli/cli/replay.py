"""``dynamo-llm replay TRACE``: what each router mode would do to a trace of requests."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dynamo_cli.cli import reports, traces
from dynamo_cli.cli.declare import application, takes
from dynamo_cli.cli.replay_options import ReplayOptions
from dynamo_cli.errors import UsageError

if TYPE_CHECKING:
    from dynamo_cli.lab.replay.plan import Replayed, ReplayPlan
    from dynamo_cli.lab.report import Slo, Summary
    from dynamo_cli.lab.trace.formats import Format, Parser
    from dynamo_cli.lab.trace.trace import Trace

PROGRESS_EVERY = 50
MIN_SPEED, MAX_SPEED = 1e-4, 1e6

app = application()


@app.command()
@takes(ReplayOptions)
def replay(options: ReplayOptions) -> None:
    """Show what each router mode would do to a trace of requests, with simulated engines.

    The policies are the ones used for serving. Simulated engines manage KV blocks as vLLM does, and
    take the time that a profile says. Nothing is started, and the same seed gives the same numbers.
    """
    from dynamo_cli.lab.replay import plot as plots  # noqa: PLC0415 - not for --help

    plot = options.plot
    reports.refuse_two_forms(as_json=options.as_json, as_csv=options.as_csv)
    if plot is not None:
        plots.check(plot)
    plan = _plan(options)
    traces.tell(plan.trace)
    results = _run(plan, reports.slo_of(options.slo_ttft, options.slo_itl))
    _show(plan, _each(results, "summary"), options)
    if plot is not None:
        plots.draw(plot, _title(plan), plan.speeds, _each(results, "curve"))


def _each(results: list[dict[str, Replayed]], part: str) -> list[dict[str, Any]]:
    return [{name: getattr(one, part) for name, one in load.items()} for load in results]


def _plan(options: ReplayOptions) -> ReplayPlan:
    from dynamo_cli.config import DEFAULT_MAX_LOCAL_PREFILL_LENGTH, PlacementRule  # noqa: PLC0415
    from dynamo_cli.engines.mock.profile import DEFAULT_PROFILE, load  # noqa: PLC0415
    from dynamo_cli.lab.replay import plan as plans  # noqa: PLC0415
    from dynamo_cli.lab.replay.engines import Asked, engines  # noqa: PLC0415

    policies, speeds = _policies(options.policy), _speeds(options.speed)
    profile = load(options.profile or DEFAULT_PROFILE)
    trace = _trace(options, profile.block_size)
    bound = options.max_local
    length = DEFAULT_MAX_LOCAL_PREFILL_LENGTH if bound is None else bound
    asked = Asked(
        options.workers,
        options.prefill_workers,
        options.profile,
        options.kv_blocks,
        options.host_cache,
    )
    chosen = engines(asked, trace, profile)
    return plans.ReplayPlan(
        trace=trace,
        profile=chosen.profile,
        policies=policies,
        speeds=speeds,
        workers=chosen.workers,
        prefill_workers=chosen.prefill_workers,
        rule=PlacementRule(options.conditional or bound is not None, length),
        host_cache_bytes=chosen.host_cache_bytes,
        seed=options.seed,
        engines=chosen.words,
    )


def _trace(options: ReplayOptions, engine_block_size: int) -> Trace:
    """The requests, with blocks of the size that was asked for."""
    from dynamo_cli.lab.trace.reading import TraceHints, read  # noqa: PLC0415
    from dynamo_cli.lab.trace.trace import with_block_size  # noqa: PLC0415

    size = options.block_size or engine_block_size
    found = read(
        options.trace,
        TraceHints(options.form, options.block_size, options.time_unit),
        engine_block_size=size,
        prompts=lambda form: _prompts(options, form, size),
    )
    return with_block_size(found, options.block_size or found.block_size)


def _policies(text: str) -> tuple[str, ...]:
    from dynamo_cli.lab.replay import plan as plans  # noqa: PLC0415

    words = filter(None, text.replace(" ", "").split(","))
    names = tuple(dict.fromkeys(plans.named(word) for word in words))
    if not names:
        raise UsageError("--policy needs the name of at least one policy.")
    return names


def _speeds(text: str) -> tuple[float, ...]:
    try:
        speeds = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--speed is numbers like 0.5,1,2, not {text!r}.") from error
    if not all(MIN_SPEED <= speed <= MAX_SPEED for speed in speeds):
        raise UsageError(f"--speed is from {MIN_SPEED:g} to {MAX_SPEED:g}, not {text!r}.")
    return speeds


def _prompts(options: ReplayOptions, form: Format, block_size: int) -> Parser:
    from dynamo_cli.lab.trace import conversations, prompts  # noqa: PLC0415
    from dynamo_cli.lab.trace.formats import Format as Formats  # noqa: PLC0415

    if not options.tokenizer:
        raise ValueError("it has text: name the model whose tokenizer to use, --tokenizer MODEL")
    encode = prompts.tokenizer(options.tokenizer, _folder(options.tokenizer))
    arrivals = prompts.Arrivals(options.rate, options.seed)
    if form is Formats.SHAREGPT:
        return conversations.Conversations(encode, block_size=block_size, arrivals=arrivals)
    return prompts.Prompts(
        encode, block_size=block_size, output_tokens=options.output_tokens, arrivals=arrivals
    )


def _folder(model: str) -> str:
    from dynamo_cli.models import catalog  # noqa: PLC0415

    return catalog.resolve(model, lambda _: None).path


def _run(plan: ReplayPlan, slo: Slo) -> list[dict[str, Replayed]]:
    from dynamo_cli.cli.progress import bars  # noqa: PLC0415
    from dynamo_cli.lab.replay import plan as plans  # noqa: PLC0415

    count = len(plan.trace.requests)
    with bars() as bar:
        tasks = {
            (name, speed): bar.add_task(f"{name} at speed {speed:g}", total=count)
            for speed in plan.speeds
            for name in plan.policies
        }

        def progress(name: str, speed: float, done: int) -> None:
            if not done % PROGRESS_EVERY or done == count:
                bar.update(tasks[name, speed], completed=done)

        return plans.run(plan, slo, progress)


def _title(plan: ReplayPlan) -> str:
    return f"{plan.trace.name}: {plan.engines}"


def _show(plan: ReplayPlan, loads: list[dict[str, Summary]], options: ReplayOptions) -> None:
    from dynamo_cli.lab import table  # noqa: PLC0415
    from dynamo_cli.lab.replay.routers import SERVED  # noqa: PLC0415
    from dynamo_cli.lab.replay.verdict import verdict  # noqa: PLC0415

    line = verdict(loads, list(SERVED))
    named = {
        f"{name} at {speed:g}": summary
        for speed, load in zip(plan.speeds, loads, strict=True)
        for name, summary in load.items()
    }
    if options.as_json:
        content = table.as_json(named, trace=plan.trace.name, engines=plan.engines, verdict=line)
        sys.stdout.write(content + "\n")
    elif options.as_csv:
        sys.stdout.write(table.as_csv(named))
    else:
        _print(plan, loads, line, details=options.details)


def _print(plan: ReplayPlan, loads: list[dict[str, Summary]], line: str, *, details: bool) -> None:
    from rich.console import Console  # noqa: PLC0415

    from dynamo_cli.lab import table  # noqa: PLC0415
    from dynamo_cli.lab.replay.peers import BOUNDS  # noqa: PLC0415
    from dynamo_cli.lab.replay.ranking import ranking  # noqa: PLC0415

    console = Console(highlight=False)
    if not details:
        console.print(_title(plan))
        console.print()
        console.print(ranking(loads, plan.speeds, console.width, BOUNDS))
    for speed, load in zip(plan.speeds, loads, strict=True) if details else ():
        for part in table.parts(load, console.width):
            console.print(
                table.table(part, f"{f'{plan.trace.name}: {plan.engines}'}, speed {speed:g}")
            )
            console.print()
    if not details:
        console.print("* the best of the column at this speed", style="dim")
        console.print()
    console.print(line)
