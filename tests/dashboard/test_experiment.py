"""The replay of a server's last hour: which engines, which process, and what is drawn."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dynamo_cli.dashboard import experiment, replaying
from dynamo_cli.dashboard.client import DashboardClient
from dynamo_cli.dashboard.draw import replay as draw
from dynamo_cli.dashboard.experiment import Experiment, ReplayStage
from dynamo_cli.dashboard.model import BoardState
from dynamo_cli.dashboard.source import Source
from dynamo_cli.errors import CannotWatch
from dynamo_cli.watch.schema import Snapshot

from .eight import EXPERIMENT
from .made import snapshot
from .test_keys import Seen, seeing

HEAD = b'{"set_up":{"router":"kv","workers":2,"num_blocks":100,"block_size":32}}\n'
LINES = HEAD + b"".join(
    json.dumps(
        {
            "timestamp": 100.0 * n,
            "input_length": 64,
            "output_length": 4,
            "hash_ids": [n % 3, 10 + n % 3],
            "block_size": 32,
            "model": "tiny",
            "e2e_ms": 50.0 + n,
            "ttft_ms": 10.0 + n,
        }
    ).encode()
    + b"\n"
    for n in range(20)
)


class Recording(DashboardClient):
    """A client of a server that has recorded these lines; None: it records nothing."""

    def __init__(self, lines: bytes | None) -> None:
        super().__init__("http://127.0.0.1:1")
        self._lines = lines

    async def record(self, seconds: float) -> bytes:
        if self._lines is None:
            raise CannotWatch("this server records no requests; start it with --record FILE.")
        return self._lines


def told(client: DashboardClient) -> list[Experiment]:
    async def run() -> list[Experiment]:
        return [one async for one in replaying.replay(client, snapshot(2, recorded_requests=1))]

    return asyncio.run(run())


def test_the_command_replays_the_record_with_engines_as_here() -> None:
    *_, last = told(Recording(LINES))
    assert (last.stage, last.problem) == (ReplayStage.DONE, "")
    assert last.report is not None
    assert set(last.report.runs) == {"round-robin", "least-loaded", "kv"}
    assert all(run.requests == 20 and run.ttft_ms for run in last.report.runs.values())
    assert last.report.verdict
    assert "2 engines with 100 KV blocks of 32 tokens, as recorded" in last.report.engines
    assert last.recorded is not None
    assert last.recorded.run.ttft_ms == experiment.LatencySpread(19.5, 19.0, 29.0)
    assert last.recorded.span_s == 1.9


def test_the_process_has_the_lowest_priority_and_ends_with_the_experiment(tmp_path: Path) -> None:
    """The program is replaced by one that tells its priority and waits."""
    told_at = tmp_path / "told"
    program = "import os, time; os.nice({nice}); " + (
        f"open({str(told_at)!r}, 'w').write(f'{{os.getpid()}} {{os.nice(0)}}'); time.sleep(600)"
    ).replace("{os", "{{os").replace(")}", ")}}")
    before = os.nice(0)

    async def run() -> None:
        task = asyncio.create_task(replaying._run(LINES, []))
        while not told_at.exists() or not told_at.read_text():
            await asyncio.sleep(0.01)
        pid, nice = map(int, told_at.read_text().split())
        assert nice == min(before + replaying.NICEST, 19)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replaying, "PROGRAM", program)
        asyncio.run(run())


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (None, "start it with --record FILE"),
        (b"", "only 0 requests were recorded; at least 10"),
        (LINES.replace(b'"hash_ids"', b'"other"'), "replay has failed"),
    ],
)
def test_what_cannot_be_replayed_is_said(lines: bytes | None, problem: str) -> None:
    *_, last = told(Recording(lines))
    assert last.stage is ReplayStage.FAILED
    assert problem in last.problem
    assert "Traceback" not in last.problem


def test_the_tab_says_how_far_it_is_and_marks_the_best() -> None:
    state = BoardState()

    def shown(one: Experiment, width: int = 78) -> str:
        state.apply(one, 10.0)
        return draw.draw(state.board(10.0), width).plain

    assert "nothing is known" in shown(Experiment())
    state.apply(snapshot(2), 10.0)
    assert "Start it with --record FILE" in shown(Experiment())
    state.apply(snapshot(2, recorded_requests=300), 10.0)
    assert "300 requests were recorded since the start. r replays" in shown(Experiment())
    assert "reads the record … 4s" in shown(Experiment(ReplayStage.READING, 6.0))
    assert "✗ it broke" in shown(Experiment(ReplayStage.FAILED, problem="it broke"))
    done = shown(EXPERIMENT).splitlines()
    rows = [line for line in done if line.startswith(("★", "  "))]
    assert [row.split()[:2] for row in rows[1:]] == [
        *(["★", "kv"], ["least-loaded", "44"], ["round-robin", "42"], ["measured", "here"]),
    ]
    assert "preempted" in shown(EXPERIMENT, 118)


def test_r_starts_a_replay_and_stops_it() -> None:
    begun: list[Snapshot] = []
    ended: list[str] = []

    async def replay(of: Snapshot) -> AsyncIterator[Experiment]:
        begun.append(of)
        try:
            yield Experiment(ReplayStage.RUNNING)
            await asyncio.sleep(600)
        finally:
            ended.append("ended")

    async def scenario(seen: Seen) -> None:
        await seen.press("8", "r")
        assert begun == []
        (said,) = seen.app._notifications
        assert said.message == "start the server with --record FILE first"
        await seen.hear(snapshot(2, recorded_requests=5))
        await seen.press("r")
        while seen.app._state.board(0).experiment.stage is not ReplayStage.RUNNING:
            await seen.pilot.pause()
        assert len(begun) == 1
        seen.app._update()
        await seen.press("r")
        assert "stopped" in seen.text("#replay-pane")
        while not ended:
            await seen.pilot.pause()
        assert len(begun) == 1

    seeing(scenario, source=Source(replay=replay))
