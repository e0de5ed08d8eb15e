"""Runs ``dynamo-llm replay`` on the last hour of a server, in a process of lowest priority."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import msgspec

from dynamo_cli.dashboard import experiment
from dynamo_cli.dashboard.client import DashboardClient
from dynamo_cli.dashboard.experiment import Experiment, ReplayStage
from dynamo_cli.errors import CannotWatch
from dynamo_cli.watch.schema import Snapshot

NICEST = 19
FEWEST_REQUESTS = 10
LAST_WORDS = 300
"""Most characters of a failed replay's message that are shown."""

PROGRAM = (
    "import os; os.nice({nice}); from dynamo_cli.host.lifeline import die_with; "
    "die_with({parent}); from dynamo_cli.cli import main; main()"
)


async def replay(
    client: DashboardClient, snapshot: Snapshot, span_s: float = experiment.SPAN_S
) -> AsyncIterator[Experiment]:
    """Replay what the server has recorded, and generate the experiment at each stage.

    If the generator is closed or cancelled, the process is ended.

    Args:
        client: reads the record from the server.
        snapshot: says which policy is served.
        span_s: the time before now that is replayed.
    """
    began = time.monotonic()
    served = snapshot.router.policy if snapshot.router else ""
    state = Experiment(ReplayStage.READING, time.time(), served=served)
    yield state
    try:
        lines = await client.record(span_s)
        found = await asyncio.to_thread(lambda: experiment.recorded(lines.splitlines()))
        state = replace(state, stage=ReplayStage.RUNNING, recorded=found)
        yield state
        if found.run.requests < FEWEST_REQUESTS:
            raise CannotWatch(
                f"only {found.run.requests} requests were recorded; "
                f"at least {FEWEST_REQUESTS} are needed to compare policies."
            )
        report = await _run(lines, experiment.options(snapshot))
    except (CannotWatch, OSError) as failure:
        took = time.monotonic() - began
        yield replace(state, stage=ReplayStage.FAILED, took_s=took, problem=str(failure))
        return
    yield replace(state, stage=ReplayStage.DONE, took_s=time.monotonic() - began, report=report)


async def _run(lines: bytes, options: list[str]) -> experiment.Report:
    """Run the command on these lines.

    Raises:
        CannotWatch: it has failed.
        OSError: it cannot be started, or the lines cannot be written.
    """
    with tempfile.NamedTemporaryFile(prefix="dynamo-llm-", suffix=".jsonl") as file:
        await asyncio.to_thread(file.write, lines)
        file.flush()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", PROGRAM.format(nice=NICEST, parent=os.getpid())),
            *("replay", file.name, "--format", "record", "--json", *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            output, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if process.returncode:
        words = said.decode(errors="replace").strip()[-LAST_WORDS:]
        raise CannotWatch(f"replay has failed: {words or f'exit code {process.returncode}'}")
    try:
        return experiment.read_report(output)
    except msgspec.DecodeError as error:
        raise CannotWatch(f"the output of replay is not a report: {error}.") from error
