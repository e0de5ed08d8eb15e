"""What the supervisor of several machines does with children on other nodes, without processes."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.errors import ChildFailed
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.cluster import (
    ChildGone,
    JoinBeside,
    NodeState,
    NodeTable,
    RelayDown,
    RelayStats,
    TellChild,
)
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.lifecycle import STALLED, LinkUp, Phase, ProcessState, ProcessTable
from dynamo_cli.supervisor import base_tree
from dynamo_cli.supervisor.child import Start
from dynamo_cli.supervisor.cluster_tree import ClusterSupervisor
from dynamo_cli.supervisor.failed_start import FailedStart
from dynamo_cli.supervisor.remote_child import RemoteChild
from dynamo_cli.supervisor.revival import NO_ZYGOTE, WAITS, Restarts
from dynamo_cli.supervisor.verdict import Verdict
from dynamo_cli.topology import FRONTEND, ROUTER, ZYGOTE, ProcessId, Role
from tests.cluster.test_plan import planned
from tests.supervisor.runs import play
from tests.supervisor.test_remote_child import Way

WORKER = ProcessId(Role.WORKER, 0)
CACHE = ProcessId(Role.HOST_CACHE, 1)
NODE = "node-0"


class Run:
    """A supervisor with a worker on another node; make it in a running loop."""

    def __init__(self) -> None:
        self.tables: list[list[ProcessState]] = []
        view: Any = SimpleNamespace(notice=lambda *_: None, processes=self.tables.append)
        config = planned(1, workers="1", router="kv", host_cache="1GiB")
        self.tree = ClusterSupervisor(config, view)
        self.way = Way()
        start = Start(WORKER, config.config_of(WORKER), "INFO")
        self.worker = RemoteChild(start, self.tree, NODE, self.way)
        self.tree._children[WORKER] = self.worker
        self.tree._restarts[WORKER] = Restarts(config.restart)


in_a_run = partial(play, Run)


def test_a_worker_is_ready_once_its_last_probe_is_answered() -> None:
    """Earlier probes went over links that were replaced."""

    def scenario(run: Run) -> None:
        run.worker.move_to(Phase.PROBING)
        run.worker.probes = 2
        run.tree._on_probe(run.worker, "the link has ended")
        assert (run.worker.phase, run.worker.failure, run.way.told) == (Phase.PROBING, None, [])
        run.tree._on_probe(run.worker, "")
        assert run.worker.phase is Phase.READY
        assert [type(one) for one in run.way.told] == [TellChild]

    in_a_run(scenario)


def test_links_of_a_lost_node_end_at_the_relay() -> None:
    def scenario(run: Run) -> None:
        for generation, peer in ((3, ROUTER), (4, FRONTEND)):
            run.worker.control.send(LinkUp(peer.name, generation))
        del run.way.relayed[:]
        run.tree.on_node_down(NODE, "it is silent")
        assert run.way.relayed == [RelayDown(3), RelayDown(4)]
        assert (run.worker.phase, run.worker.reason) == (Phase.BACKOFF, "it is silent")

    in_a_run(scenario)


@pytest.mark.parametrize("up", [False, True])
def test_a_worker_that_ended_with_its_node_is_not_to_blame(up: bool) -> None:
    def scenario(run: Run) -> None:
        blameless: list[bool] = []

        def next_delay_s(ready_s: float | None, *, killed: bool) -> float:
            blameless.append(killed)
            return 60.0

        restarts: Any = SimpleNamespace(next_delay_s=next_delay_s)
        run.tree._restarts[WORKER] = restarts
        run.tree._nodes._named(NODE).up = up
        run.tree._restart_later(run.worker, "it ended", 1.0)
        assert blameless == [not up]

    in_a_run(scenario)


@pytest.mark.parametrize("up", [False, True])
def test_a_worker_that_is_gone_with_its_node_does_not_end_the_start(up: bool) -> None:
    def scenario(run: Run) -> None:
        run.tree._nodes._named(NODE).up = up
        run.worker.lost("its outpost has ended")
        assert run.tree._ending.begun is up

    in_a_run(scenario)


def test_a_start_ends_when_every_worker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    hopeless = Verdict(False, "every worker failed", hopeless=True)
    monkeypatch.setattr(base_tree, "judge", lambda _: hopeless)

    def scenario(run: Run) -> None:
        run.tree._publish()
        assert run.tree._ending.begun

    in_a_run(scenario)


def test_probes_of_an_earlier_frontend_are_forgotten() -> None:
    def scenario(run: Run) -> None:
        run.worker.probes = 3
        frontend: Any = SimpleNamespace(process=FRONTEND, alive=True, phase=Phase.STARTING)
        run.tree._children[FRONTEND] = frontend
        run.tree._probe(run.worker)
        assert run.worker.probes == 0
        run.worker.probes = 1
        run.tree._probe(run.worker)
        assert run.worker.probes == 1, "it is the same frontend"

    in_a_run(scenario)


def test_what_lives_on_a_node_that_is_up_is_joined_there() -> None:
    def scenario(run: Run) -> None:
        start = Start(CACHE, run.tree._config.config_of(CACHE), "INFO")
        run.tree._children[CACHE] = RemoteChild(start, run.tree, NODE, run.way)
        run.tree._restarts[CACHE] = Restarts(run.tree._config.restart)
        run.worker.move_to(Phase.BACKOFF, "the node was lost")
        run.tree.on_node_up(NODE, {WORKER.name: Phase.LOADING, CACHE.name: Phase.READY})
        (joined,) = [one for one in run.way.told if isinstance(one, JoinBeside)]
        assert {joined.process, joined.peer} == {WORKER.name, CACHE.name}
        assert run.worker.phase is Phase.LOADING

    in_a_run(scenario)


@pytest.mark.parametrize(
    ("phase", "started"), [(Phase.BACKOFF, [CACHE, WORKER]), (Phase.FAILED, [CACHE])]
)
def test_what_is_missing_on_a_node_that_is_up_is_started_unless_it_was_given_up(
    monkeypatch: pytest.MonkeyPatch, phase: Phase, started: list[ProcessId]
) -> None:
    def scenario(run: Run) -> None:
        begun: list[ProcessId] = []
        monkeypatch.setattr(run.tree, "_start", begun.append)
        run.worker.gone.set()
        run.worker.move_to(phase, "it ended")
        run.tree.on_node_up(NODE, {})
        assert sorted(begun, key=lambda one: one.name) == started

    in_a_run(scenario)


def test_a_worker_of_a_node_that_is_lost_waits_for_it() -> None:
    def scenario(run: Run) -> None:
        run.worker.gone.set()
        run.tree._start(WORKER)
        assert (run.worker.phase, run.worker.reason) == (Phase.BACKOFF, f"waiting for {NODE}")
        assert run.tree._children[WORKER] is run.worker

    in_a_run(scenario)


def test_the_table_shows_what_was_not_started_yet_and_what_it_waits_for() -> None:
    """Else a server would seem whole while it waits for workers of a node."""

    def scenario(run: Run) -> None:
        del run.tree._children[WORKER], run.tree._restarts[WORKER]
        run.tree._publish()
        run.tree._publish()
        first, again = ({row.name: row for row in table} for table in run.tables)
        processor = ProcessId(Role.PROCESSOR, 0)
        for process, reason in ((WORKER, f"waiting for {NODE}"), (processor, WAITS)):
            row = first[process.name]
            assert (row.phase, row.reason, row.pid) == (Phase.STARTING, reason, 0)
        assert first.keys() == {process.name for process in run.tree._config.tree()}
        assert again == first, "since when does not change"
        assert first[WORKER.name].node == NODE

        run.tree._children[WORKER] = run.worker
        run.tree._restarts[WORKER] = Restarts(run.tree._config.restart)
        run.tree._publish()
        assert [row.reason for row in run.tables[-1] if row.name == WORKER.name] == [""]

    in_a_run(scenario)


def test_what_another_node_starts_does_not_need_the_zygote_of_this_machine() -> None:
    def scenario(run: Run) -> None:
        del run.tree._children[WORKER], run.tree._restarts[WORKER]
        zygote: Any = SimpleNamespace(
            process=ZYGOTE, alive=False, phase=Phase.FAILED, state=run.worker.state
        )
        run.tree._children[ZYGOTE] = zygote
        run.tree._restarts[ZYGOTE] = Restarts(run.tree._config.restart)
        run.tree._publish()
        rows = {row.name: (row.phase, row.reason) for row in run.tables[0][1:]}
        assert rows[WORKER.name] == (Phase.STARTING, f"waiting for {NODE}")
        assert rows[ProcessId(Role.PROCESSOR, 0).name] == (Phase.FAILED, NO_ZYGOTE)

    in_a_run(scenario)


def test_tables_that_a_frontend_does_not_read_do_not_pile_up() -> None:
    def scenario(run: Run) -> None:
        ours, theirs = Control.pair()
        child = Control(theirs, ToChild)
        run.tree._children[FRONTEND] = frontend = FailedStart(run.worker.start, run.tree, "")
        frontend.gone.clear()
        frontend.control = ours
        run.tree._restarts[FRONTEND] = Restarts(run.tree._config.restart)
        for turn in range(2000):  # far more than the kernel keeps for a socket
            run.worker.move_to(Phase.LOADING, f"turn {turn}")
            run.tree._publish()
            state = NodeState(NODE, True, float(turn), None, RelayStats())
            run.tree.show_nodes(NodeTable([state]))
        assert len(ours._waiting) == 2
        received: list[Any] = []
        while not ours.flush() or len(received) < 2:
            received += [message for message, _ in child.receive()]
        received += [message for message, _ in child.receive()]
        assert len(received) < 2000
        tables = [one for one in received if isinstance(one, ProcessTable)]
        assert "turn 1999" in {row.reason for row in tables[-1].processes}
        assert received[-1] == NodeTable([state])
        ours.close()
        child.close()

    in_a_run(scenario)


@pytest.mark.parametrize(
    ("stalled", "reason"),
    [("", "SIGKILL"), (f"{STALLED}: no sign of life for 9 s", STALLED)],
)
def test_a_child_starts_again_because_of_what_it_died_of(stalled: str, reason: str) -> None:
    def scenario(run: Run) -> None:
        run.tree._has_served, run.worker.pid = True, 5
        failure = (ChildFailed.__name__, stalled) if stalled else None
        run.worker.told(ChildGone(WORKER.name, -9, failure, stalled, []))
        assert run.worker.phase is Phase.BACKOFF
        assert run.worker.reason.partition(":")[0] == reason

    in_a_run(scenario)


def test_the_end_of_a_relay_is_the_loss_of_its_node() -> None:
    def scenario(run: Run) -> None:
        relay = ProcessId(Role.RELAY, 0)
        start = Start(relay, run.tree._config.config_of(WORKER), "INFO")
        child = RemoteChild(start, run.tree, "", run.way)
        run.tree._children[relay] = child
        run.tree._restarts[relay] = Restarts(run.tree._config.restart)
        run.tree._nodes._named(NODE).up = True
        child.gone.set()
        run.tree.on_exit(child, -9)
        assert not run.tree._nodes.is_up(NODE)

    in_a_run(scenario)
