"""Workers that are added while the system does not let them start are tried again."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.config import EngineConfig, FrontendConfig, RouterConfig, SimulationConfig
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.serve_config import RestartPolicy, ServeConfig
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.local_child import LocalChild
from dynamo_cli.supervisor.tree import Supervisor
from dynamo_cli.topology import ProcessId, Role
from tests.supervisor.runs import play

ADDED = ProcessId(Role.WORKER, 0)
SAYS = "it cannot be started: too many open files"
LIMIT = 3


class Refusing(Supervisor):
    """A supervisor whose starts fail until it has the descriptors for one.

    Attributes:
        tries: how many starts were tried.
        refused: how many of them fail.
    """

    tries, refused = 0, LIMIT

    def _make(self, start: Start) -> Child:
        self.tries += 1
        if self.tries <= self.refused:
            raise OSError(errno.EMFILE, "too many open files")
        return super()._make(start)

    def _begin(self, child: Child) -> None:
        """No process is needed here."""


class Run:
    """A server whose workers are all to be started; make it in a running loop."""

    def __init__(self) -> None:
        self.rows: list[ProcessState] = []
        self.notices: list[str] = []
        view: Any = SimpleNamespace(notice=self.hear, processes=self.see, lost_lines=0)
        engine = EngineConfig("m", "m", ("m",), simulation=SimulationConfig("gpu-8b"))
        config = ServeConfig(
            engine,
            FrontendConfig(),
            router=RouterConfig("least-loaded"),
            restart=RestartPolicy(limit=LIMIT, first_delay_s=0.01),
        )
        self.tree = Refusing(config, view)
        self.tree._has_served = True

    def see(self, table: Sequence[ProcessState]) -> None:
        self.rows = [row for row in table if row.name == ADDED.name]

    def hear(self, level: str, text: str) -> None:
        self.notices.append(text)

    async def until(self, phase: Phase) -> ProcessState:
        async with asyncio.timeout(10):
            while (row := self.rows[0]).phase is not phase:
                await asyncio.sleep(0.005)
        return row


def discard_children(run: Run) -> None:
    for child in run.tree._alive():
        child.discard()


def in_a_run(scenario: Callable[[Run], Coroutine[Any, Any, None]]) -> None:
    play(Run, scenario, discard_children)


def test_one_that_could_not_be_started_is_tried_again() -> None:
    async def scenario(run: Run) -> None:
        run.tree._rescale(1)
        assert [(row.phase, row.reason) for row in run.rows] == [(Phase.BACKOFF, SAYS)]
        assert run.notices == [f"worker 0: {SAYS}; it starts again in 0.0 s"]
        row = await run.until(Phase.STARTING)
        assert (row.reason, row.restarts) == ("", LIMIT)
        assert isinstance(run.tree._children[ADDED], LocalChild)

    in_a_run(scenario)


def test_one_that_never_starts_is_given_up_and_added_again_by_hand() -> None:
    async def scenario(run: Run) -> None:
        run.tree.refused = LIMIT + 1
        run.tree._rescale(1)
        row = await run.until(Phase.FAILED)
        assert row.reason == f"{SAYS}, and {LIMIT} restarts in a row did not help"
        run.tree._retire(ADDED)
        run.tree._start_workers()
        assert run.tree._children[ADDED].alive

    in_a_run(scenario)


@pytest.mark.parametrize("added_again", [False, True])
def test_one_that_is_not_wanted_any_more_is_not_tried_again(added_again: bool) -> None:
    async def scenario(run: Run) -> None:
        run.tree._rescale(1)
        (trying,) = run.tree._background._tasks
        run.tree._retire(ADDED)
        if added_again:
            run.tree.refused = 0
            run.tree._start_workers()
        added = run.tree._children.get(ADDED)
        tries = run.tree.tries
        await trying
        assert run.tree.tries == tries
        assert run.tree._children.get(ADDED) is added

    in_a_run(scenario)
