"""``dynamo-llm profile``: measure a real engine and write a profile for the simulated one."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamo_cli.cli import terminal
from dynamo_cli.cli.commands import SERVE_OPTIONS
from dynamo_cli.cli.declare import application, option
from dynamo_cli.errors import ChildFailed, UsageError, error_class
from dynamo_cli.host import cache, lifeline, oserrors
from dynamo_cli.plan import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dynamo_cli.config import EngineConfig
    from dynamo_cli.engines.measured import Burst
    from dynamo_cli.engines.mock.profile import Profile
    from dynamo_cli.engines.vllm.measure import Measurements, MeasurePlan
    from dynamo_cli.lab.profile.fit import Errors

MEASURE = "dynamo_cli.engines.vllm.measure"
MS = 1000
US = 1_000_000
LAST_LINES = 3

app = application(context_settings=SERVE_OPTIONS)


@app.command(context_settings=SERVE_OPTIONS)
def profile(
    context: typer.Context,
    output: Annotated[
        Path | None,
        option(
            "--output", metavar="FILE", help="File to write. Default: the model's name with .json."
        ),
    ] = None,
    force: Annotated[bool, option("--force", help="Overwrite the file.")] = False,
    seconds: Annotated[
        float,
        option(
            "--seconds",
            min=1,
            most=limits.MAX_SECONDS,
            help="Begin no larger measurement after this time.",
        ),
    ] = 30.0,
) -> None:
    """Measure a real engine and write a profile of it for the simulated one.

    Takes the options of serving: [b]dynamo-llm profile --model demo --max-num-seqs 64[/b]. One
    engine is loaded and measured, without a server around it.
    """
    with cache.usable() as moved:
        if moved:
            terminal.say(moved)
        _profile_engine(context.args, output, seconds, force=force)


def _profile_engine(args: list[str], output: Path | None, seconds: float, *, force: bool) -> None:
    import msgspec  # noqa: PLC0415 - the help needs none of it
    from rich.console import Console  # noqa: PLC0415

    from dynamo_cli.engines.vllm.measure import MeasurePlan  # noqa: PLC0415
    from dynamo_cli.lab.profile import fit  # noqa: PLC0415

    config = _engine(args)
    file = output or Path(f"{Path(config.model).name}.json")
    if file.exists() and not force:
        raise UsageError(f"{file} is there already; --force overwrites it, --output names another.")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"--output {file}: there is no folder {file.parent}.")
    with Console(stderr=True).status("starting") as status:
        measured = _measure(
            MeasurePlan(config, seconds), lambda what: status.update(f"measuring: {what}")
        )
    times = fit.fit(measured.runs)
    errors = fit.errors(measured.runs, times)
    found = _profile(config, measured, times, errors)
    try:
        file.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {oserrors.reason(error)}.") from error
    _show(found, errors, measured, fit.simulate(measured.burst, found))
    typer.echo(f"{file} is written.")


def _engine(args: list[str]) -> EngineConfig:
    """One of the engines that would serve, with the files of its model fetched."""
    from dynamo_cli.cli import app as serving  # noqa: PLC0415
    from dynamo_cli.cli import launch  # noqa: PLC0415

    typed = serving.typed_of(serving.parse(args))
    if not typed.model:
        raise UsageError("--model is missing; --model demo is a good first try.")
    config = launch.plan_with_model(typed)
    # No supervisor makes the memory of a host cache for it.
    return replace(config.worker_config(0).engine, host_cache=None)


def _measure(plan: MeasurePlan, say: Callable[[str], None]) -> Measurements:
    """Measure in a process that imports vLLM, and that ends with this one.

    Raises:
        ChildFailed: the process ended without a result. Errors that it reports are raised as they
            are.
    """
    import msgspec  # noqa: PLC0415

    child = lifeline.run_reporting(
        lifeline.command_of(MEASURE),
        lambda reports: _follow(reports, say),
        msgspec.json.encode(plan).decode(),
    )
    if child.found is None:
        last = " ".join(child.log.split("\n")[-LAST_LINES:]).strip()
        raise ChildFailed(
            f"the engine ended while it was measured (exit code {child.exit_code}): {last}"
        )
    return child.found


def _follow(reports: Iterable[Any], say: Callable[[str], None]) -> Measurements | None:
    """Pass on the progress of the process; its last report is the result, or its failure."""
    import msgspec  # noqa: PLC0415

    from dynamo_cli.engines.vllm.measure import Measurements  # noqa: PLC0415

    for report in reports:
        match report:
            case {"progress": what}:
                say(what)
            case {"error": name, "message": message}:
                raise error_class(name)(message)
            case {"measured": found}:
                return msgspec.convert(found, Measurements)
    return None


def _profile(
    config: EngineConfig, measured: Measurements, times: dict[str, float], errors: dict[str, Errors]
) -> Profile:
    from dynamo_cli.engines.mock.profile import Profile  # noqa: PLC0415

    fits = ", ".join(f"{kind} within {error.median:.0%}" for kind, error in errors.items())
    place = "GPU" if config.devices else f"{config.threads or os.cpu_count()} CPU threads"
    return Profile(
        name=Path(config.model).name,
        source=f"{len(measured.runs)} runs of {config.model} on {place}; {fits} in the median. "
        "Moving blocks between engines and from a host cache was not measured.",
        block_size=measured.block_size,
        num_blocks=measured.num_blocks,
        max_num_seqs=measured.max_num_seqs,
        max_num_batched_tokens=measured.max_num_batched_tokens,
        max_model_len=measured.max_model_len,
        **times,  # type: ignore[arg-type]
    )


def _show(
    profile: Profile, errors: dict[str, Errors], measured: Measurements, guess: Burst
) -> None:
    """Print the fit, and compare it with a burst of requests that was not used for the fit."""
    lines = [
        f"a step takes {profile.step_s * MS:.3g} ms, and",
        f"  {profile.prefill_request_s * US:.3g} us per prompt, "
        f"{profile.prefill_token_s * US:.3g} us per token of it, "
        f"{profile.prefill_context_s * US:.3g} us per pair of these,",
        f"  {profile.decode_request_s * US:.3g} us per request that decodes, "
        f"{profile.decode_context_s * US:.3g} us per token that it has in the cache",
    ]
    for kind, error in errors.items():
        lines.append(f"{kind}: error {error.median:.1%} in the median, {error.largest:.0%} at most")
    burst = measured.burst
    lines += [
        f"{len(burst.lengths)} requests at once, to which nothing was fitted:",
        _compared("TTFT mean, ms", burst.ttft_mean_s * MS, guess.ttft_mean_s * MS),
        _compared("output tok/s", burst.output_tokens_per_s, guess.output_tokens_per_s),
    ]
    if measured.left_out:
        lines.append(
            f"{measured.left_out} measurements were left out because the time was over (--seconds) "
            "or of KV cache"
        )
    sys.stdout.write("\n".join(lines) + "\n")


def _compared(name: str, measured: float, simulated: float) -> str:
    error = simulated / measured - 1
    return f"  {name}: {measured:.4g} measured, {simulated:.4g} simulated ({error:+.0%})"
