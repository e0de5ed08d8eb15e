"""What cannot be started any more once the zygote is given up, without processes."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.config import EngineConfig, FrontendConfig, RouterConfig
from dynamo_cli.errors import ChildFailed
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.serve_config import RestartPolicy, ServeConfig
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.revival import NO_ZYGOTE, WAITS, Restarts
from dynamo_cli.supervisor.tree import Supervisor
from dynamo_cli.topology import FRONTEND, ZYGOTE, ProcessId, Role
from tests.supervisor.runs import play

WORKER, ADDED = ProcessId(Role.WORKER, 0), ProcessId(Role.WORKER, 1)
PROCESSOR = ProcessId(Role.PROCESSOR, 0)
SAYS = "no request can be served any more: every worker failed: "


class Handle(Child):
    """A child without a process."""

    last_words: list[str] = []  # noqa: RUF012
    control: Any = SimpleNamespace(send_state=lambda _: None)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        raise AssertionError

    def discard(self) -> None:
        raise AssertionError


class Run:
    """A server that serves with one worker, and has two in its plan; make it in a running loop."""

    def __init__(self) -> None:
        self.table: dict[str, ProcessState] = {}
        view: Any = SimpleNamespace(notice=lambda *_: None, processes=self.see, lost_lines=0)
        config = ServeConfig(
            EngineConfig("m", "m", ("m",)),
            FrontendConfig(),
            engine_devices=((), ()),
            router=RouterConfig("least-loaded"),
            restart=RestartPolicy(limit=0),
        )
        self.tree = Supervisor(config, view)
        self.tree._has_served = True
        for process in (ZYGOTE, FRONTEND, PROCESSOR, WORKER):
            child = Handle(Start(process, config.config_of(process), "INFO"), self.tree)
            child.pid = 9
            child.move_to(Phase.READY)
            self.tree._children[process] = child
            self.tree._restarts[process] = Restarts(config.restart)
        self.zygote, self.worker = self.tree._children[ZYGOTE], self.tree._children[WORKER]

    def see(self, table: list[ProcessState]) -> None:
        self.table = {row.name: row for row in table}

    def end(self, child: Child, exit_code: int | None) -> None:
        child.gone.set()
        self.tree.on_exit(child, exit_code)

    def rows(self) -> list[tuple[str, str]]:
        found = (self.table[process.name] for process in (WORKER, ADDED))
        return [(row.phase, row.reason) for row in found]


in_a_run = partial(play, Run)


@pytest.mark.parametrize("zygote_first", [False, True])
def test_a_fork_that_was_pending_is_given_up_with_the_zygote(zygote_first: bool) -> None:
    async def scenario(run: Run) -> None:
        run.worker.pid = 0
        run.worker.move_to(Phase.IMPORTING)
        both = [(run.zygote, 70), (run.worker, None)]
        for child, exit_code in both if zygote_first else reversed(both):
            run.end(child, exit_code)
        failure = await asyncio.wait_for(run.tree._ending.asked(), 5)
        assert isinstance(failure, ChildFailed)
        assert failure.message.startswith(SAYS)
        assert run.rows() == [(Phase.FAILED, NO_ZYGOTE)] * 2

    in_a_run(scenario)


def test_a_worker_that_was_never_started_is_given_up_with_the_zygote() -> None:
    async def scenario(run: Run) -> None:
        run.tree._publish()
        assert run.rows() == [(Phase.READY, ""), (Phase.STARTING, WAITS)]
        run.end(run.zygote, 70)
        assert run.rows() == [(Phase.READY, ""), (Phase.FAILED, NO_ZYGOTE)]
        assert not run.tree._ending.begun, "the other worker serves"
        run.end(run.worker, 1)
        failure = await asyncio.wait_for(run.tree._ending.asked(), 5)
        assert isinstance(failure, ChildFailed)
        assert failure.message.startswith(SAYS)

    in_a_run(scenario)
