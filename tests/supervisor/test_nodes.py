"""When another node joins, is lost, and is given up: messages and the time, without processes."""

from __future__ import annotations

import errno
import signal
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.cluster_config import ClusterPlan, Node
from dynamo_cli.config import EngineConfig, FrontendConfig
from dynamo_cli.errors import DynamoError, ResourceError, UsageError
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.cluster import (
    HEAD_UNHEARD,
    Beat,
    Carry,
    ChildGone,
    ChildWrote,
    FromSupervisor,
    LivingChildren,
    NodeState,
    NodeTable,
    OutpostEnded,
    PlaceOutpost,
    Present,
    RelayBound,
    RelayCut,
    RelayJoined,
    RelayStats,
    ResetLinks,
    SignalChild,
)
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.serve_config import RestartPolicy, ServeConfig
from dynamo_cli.supervisor import nodes
from dynamo_cli.supervisor.node_counts import MOST_BEATS, NodeCounts
from dynamo_cli.supervisor.nodes import AGAIN_S, Nodes
from dynamo_cli.supervisor.post import Post
from dynamo_cli.topology import CLUSTER, ProcessId, Role

RELAY = ProcessId(Role.RELAY)
NAME = "node-a"
decoded: Any = Decoder(FromSupervisor)


class Worker:
    """A child on the node."""

    def __init__(self, index: int) -> None:
        self.process = ProcessId(Role.WORKER, index)
        self.why = ""

    def lost(self, why: str) -> None:
        self.why = why


class Run:
    """A supervisor with one other node, whose clock is set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, serves: bool = True) -> None:
        self.now_s = 1000.0
        self.phase = Phase.READY
        clock = SimpleNamespace(monotonic=lambda: self.now_s, monotonic_ns=lambda: 0)
        monkeypatch.setattr(nodes, "time", clock)
        self.serves = serves
        self.failures: list[DynamoError] = []
        self.notices: list[str] = []
        self.ups: list[dict[str, str]] = []
        self.joins = True
        self.downs: list[str] = []
        self.told_downs: list[str] = []
        self.sent: dict[ProcessId, list[Any]] = {RELAY: [], CLUSTER: []}
        self.workers: list[Worker] = []
        plan = ClusterPlan("127.0.0.1:1", "127.0.0.1", (Node(NAME, "id", "127.0.0.1"),), (0, 0))
        engine = EngineConfig("tiny", "tiny", ("tiny",))
        config = ServeConfig(engine, FrontendConfig(), ((), ()), cluster=plan)
        self.timeouts = plan.timeouts
        self.nodes = Nodes(config, self)  # type: ignore[arg-type]

    # -- what nodes ask of the supervisor

    def child(self, process: ProcessId) -> Any:
        control = SimpleNamespace(send=lambda message, _=(): self.sent[process].append(message))
        return SimpleNamespace(process=process, alive=True, control=control, phase=self.phase)

    def children_of(self, node: str) -> list[Worker]:
        assert node == NAME
        return [worker for worker in self.workers if not worker.why]

    def on_node_up(self, node: str, present: dict[str, str]) -> None:
        self.ups.append(present)
        if not self.joins:
            raise OSError(errno.EMFILE, "too many open files")
        self.workers = self.workers or [Worker(0), Worker(1)]

    def on_node_down(self, node: str, why: str, *, told: bool) -> None:
        (self.told_downs if told else self.downs).append(why)

    def give_up_start(self, failure: DynamoError) -> bool:
        if not self.serves:
            self.failures.append(failure)
        return not self.serves

    def show_nodes(self, table: NodeTable) -> None: ...

    def notice(self, level: str, text: str) -> None:
        self.notices.append(text)

    # -- what happens

    def report(self, message: Message) -> None:
        process = CLUSTER if isinstance(message, OutpostEnded) else RELAY
        self.nodes.on_report(self.child(process), message)

    def say(self, message: Message) -> None:
        """The outpost says this."""
        self.report(Carry(encode(message)))

    def roll(self, *workers: int, outpost: str = "first", lines: int = 0) -> None:
        there = [Present(f"worker {one}", 1, "probing") for one in workers]
        self.say(LivingChildren(outpost, 7, there, lines))

    def join(self) -> None:
        self.report(RelayBound(4711))
        self.report(RelayJoined())
        self.roll()

    def after(self, seconds: float) -> None:
        """The supervisor looks at its nodes in regular intervals, and after these seconds."""
        end_s, looks = self.now_s + seconds, int(seconds / self.timeouts.beat_s)
        for _ in range(looks):
            self.now_s += self.timeouts.beat_s
            self.nodes._look()
        self.now_s = end_s
        self.nodes._look()

    def after_a_pause(self, seconds: float) -> None:
        """The supervisor looks again so much later: it could not do so before."""
        self.now_s += seconds
        self.nodes._look()

    def told(self, kind: type) -> int:
        """How many messages of one kind the outpost has got."""
        carried = (decoded(one.payload) for one in self.sent[RELAY] if isinstance(one, Carry))
        return sum(isinstance(one, kind) for one in carried)

    @property
    def up(self) -> bool:
        return self.nodes.is_up(NAME)


def test_an_outpost_is_placed_once_its_relay_listens_and_is_up_once_it_has_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    run.report(RelayBound(4711))
    (placed,) = run.sent[CLUSTER]
    assert isinstance(placed, PlaceOutpost)
    post = Post.load(placed.post)
    assert (post.node, post.relay.port, post.relay.listens) == (NAME, 4711, False)
    head = run.nodes.config_of(RELAY)
    assert head is not None
    assert (head.public, head.other) == (post.relay.other, post.relay.public)
    assert head.secret != post.relay.secret
    run.report(RelayJoined())
    assert run.told(ResetLinks) == 1
    assert not run.up
    run.roll()
    assert run.up
    assert run.ups == [{}]
    run.report(RelayBound(4711))  # the relay was started again, for the same outpost
    assert len(run.sent[CLUSTER]) == 1


def test_a_node_that_gets_into_the_plan_later_has_a_relay_and_an_outpost_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    late, relay = Node("late", "late id", "127.0.0.1", gpus=2), ProcessId(Role.RELAY, 1)
    run.sent[relay] = []
    config = run.nodes._config
    assert config.cluster is not None
    plan = replace(config.cluster, nodes=(*config.cluster.nodes, late), workers=(0, 1))
    for _ in range(2):  # the second time, nothing is new
        run.nodes.follow(replace(config, cluster=plan))
    assert len(run.nodes._nodes) == 2
    assert not run.nodes.is_up("late")
    first, second = run.nodes.config_of(RELAY), run.nodes.config_of(relay)
    assert first is not None
    assert second is not None
    assert first.other != second.other
    run.nodes.on_report(run.child(relay), RelayBound(4712))
    (placed,) = run.sent[CLUSTER]
    assert (placed.node, placed.machine, Post.load(placed.post).node) == (1, late, "late")


def test_a_silent_node_is_lost_and_asked_when_it_answers_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    run.join()
    run.after(run.timeouts.lost_s - 0.1)
    assert run.up
    assert run.told(Beat) == 6
    run.say(Beat(6))
    run.after(run.timeouts.lost_s - 0.1)
    assert run.up
    run.after(0.2)
    assert not run.up
    assert run.downs == [f"{NAME} has been silent for 3 s"]
    run.say(Beat(7))
    run.say(Beat(8))
    assert run.told(ResetLinks) == 2  # it is asked once only
    run.roll(0)
    assert run.up
    assert [bool(worker.why) for worker in run.workers] == [False, True]


def test_a_node_whose_links_cannot_be_made_is_lost_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    run.join()
    run.report(RelayCut("cut"))
    run.report(RelayJoined())
    run.joins = False
    why = "it cannot be joined: too many open files"
    for turn in range(3):
        run.roll(0, 1)
        assert not run.up
        assert run.downs == ["cut", why], "it is told once"
        assert run.told_downs == [why] * turn
        asked = run.told(ResetLinks)
        run.after(run.timeouts.beat_s)
        run.say(Beat(turn))
        assert run.told(ResetLinks) == asked + 1
    run.joins = True
    run.roll(0, 1)
    assert run.up
    assert state(run).up


def test_a_node_that_cannot_be_joined_before_the_run_serves_ends_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, serves=False)
    run.joins = False
    run.join()
    (failure,) = run.failures
    assert isinstance(failure, ResourceError)
    assert f"{NAME}: it cannot be joined: too many open files. Check" in failure.message


def test_what_was_counted_as_ended_is_ended_before_its_node_is_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    run.join()
    run.report(RelayCut("cut"))
    del run.workers[1]
    run.report(RelayJoined())
    run.roll(0, 1)
    assert not run.up
    carried = [decoded(one.payload) for one in run.sent[RELAY] if isinstance(one, Carry)]
    assert carried[-1] == SignalChild("worker 1", signal.SIGKILL)
    run.say(ChildGone("worker 1", -9))
    run.say(Beat(1))
    run.roll(0)
    assert run.up
    assert run.ups[-1] == {"worker 0": "probing"}


def test_when_the_head_stood_still_itself_no_node_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.join()
    run.after_a_pause(3600)
    assert run.up


@pytest.mark.parametrize(("pause_s", "looks"), [(0.55, 6), (0.75, 5), (1.0, 5), (1.4, 5)])
def test_a_head_that_gets_no_time_blames_no_node_for_that(
    monkeypatch: pytest.MonkeyPatch, pause_s: float, looks: int
) -> None:
    """Each look of a slow machine counts as one and a half intervals at most."""
    run = Run(monkeypatch)
    run.join()
    lost_after = 0
    while run.up:
        run.after_a_pause(pause_s)
        lost_after += 1
    assert lost_after == looks


def test_an_outpost_is_awaited_as_long_as_the_head_is_awake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    run.report(RelayBound(4711))
    run.after_a_pause(3600)
    assert not run.notices


def test_heartbeats_do_not_pile_up_at_an_outpost_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)
    run.join()
    run.after(run.timeouts.lost_s + 1)
    assert not run.up
    beats = run.told(Beat)
    run.after(3600)
    assert run.told(Beat) == beats
    for number in range(1, beats + 1):
        run.say(Beat(number))
    assert run.told(ResetLinks) == 2
    run.after(run.timeouts.beat_s)
    assert run.told(Beat) == beats + 1


def test_heartbeats_go_on_over_a_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.join()
    run.after(run.timeouts.lost_s + 1)
    run.report(RelayJoined())
    beats = run.told(Beat)
    run.after(run.timeouts.beat_s)
    assert run.told(Beat) == beats + 1


def test_children_of_an_earlier_outpost_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.join()
    run.report(RelayCut("cut"))
    assert run.downs == ["cut"]
    run.report(RelayJoined())
    run.roll(0, 1, outpost="second")
    assert all(worker.why for worker in run.workers)


@pytest.mark.parametrize("how", ["relay", "cut"])
def test_a_lost_relay_leaves_the_children(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    run = Run(monkeypatch)
    run.join()
    if how == "relay":
        run.nodes.on_exit(RELAY)
    else:
        run.report(RelayCut("cut"))
    assert not run.up
    beats = run.told(Beat)
    run.after(1)
    assert run.told(Beat) == beats  # nobody would hear
    assert len(run.children_of(NAME)) == 2


def test_an_outpost_that_has_ended_is_placed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.join()
    run.report(OutpostEnded(0, "killed"))
    assert not run.up
    assert all("has ended" in worker.why for worker in run.workers)
    run.after(AGAIN_S - 0.1)
    assert len(run.sent[CLUSTER]) == 1
    run.after(0.2)
    assert len(run.sent[CLUSTER]) == 2
    run.report(OutpostEnded(0, "killed"))
    assert len(run.notices) == 1  # the same trouble again is no news


@pytest.mark.parametrize("error", ["", "UsageError"])
def test_an_outpost_that_ends_before_the_run_serves_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    run = Run(monkeypatch, serves=False)
    run.report(RelayBound(4711))
    run.report(OutpostEnded(0, "it has other releases", error))
    (failure,) = run.failures
    assert isinstance(failure, UsageError) is bool(error)
    assert failure.message == f"{NAME}: it has other releases"
    run.after(AGAIN_S + 1)
    assert len(run.sent[CLUSTER]) == 1


def test_an_outpost_that_loses_touch_with_the_head_does_not_end_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Machines are busiest while engines start. If it does not pass, the start fails."""
    run = Run(monkeypatch, serves=False)
    run.join()
    ended = OutpostEnded(0, f"{HEAD_UNHEARD} for 4 s")
    for turn in range(1, RestartPolicy().limit + 1):
        run.report(ended)
        assert all(worker.why for worker in run.workers)
        run.after(AGAIN_S + 1)
        assert len(run.sent[CLUSTER]) == 1 + turn
    assert not run.failures
    run.report(ended)
    assert [one.message for one in run.failures] == [f"{NAME}: {ended.reason}"]


def test_a_failed_start_does_not_wait_for_workers_whose_outpost_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, serves=False)
    run.join()
    run.report(OutpostEnded(0, "killed"))
    assert run.failures
    assert all(worker.why for worker in run.workers)


@pytest.mark.parametrize("serves", [False, True])
def test_an_outpost_that_does_not_connect_is_named_with_the_port(
    monkeypatch: pytest.MonkeyPatch, serves: bool
) -> None:
    run = Run(monkeypatch, serves=serves)
    run.report(RelayBound(4711))
    run.after(run.timeouts.join_s - 1)
    assert not run.notices
    assert not run.failures
    run.after(2)
    told = run.notices if serves else [one.message for one in run.failures]
    assert len(told) == 1
    assert "port 4711, within 60 s; does a firewall block it?" in told[0]


def test_a_node_that_does_not_join_again_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    run.join()
    run.after(1)
    run.report(RelayCut("cut"))
    run.after(run.timeouts.join_s - 1)
    assert not run.notices
    run.after(2)
    assert len(run.notices) == 1


def state(run: Run) -> NodeState:
    (one,) = run.nodes.table().nodes
    return one


def test_log_lines_that_were_lost_without_a_connection_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch)

    def line(number: int) -> None:
        run.say(ChildWrote("", "INFO", "text", number=number))

    run.report(RelayBound(4711))
    run.report(RelayJoined())
    line(3)  # before it is known that 1 and 2 were written without a connection
    run.roll(0, 1, lines=3)
    assert state(run).lost_log_lines == 2
    line(4)
    line(6)
    assert state(run).lost_log_lines == 3
    run.report(RelayCut("cut"))
    run.report(RelayJoined())
    run.roll(0, 1, lines=10)
    assert state(run).lost_log_lines == 7
    line(11)
    run.report(RelayCut("cut"))
    run.report(RelayJoined())
    run.roll(0, 1, outpost="second", lines=1)
    assert state(run).lost_log_lines == 8
    run.say(ChildWrote("worker 7", "INFO", "of a process that has ended", number=2))
    assert state(run).lost_log_lines == 9


def test_relays_and_heartbeats_are_counted_over_all_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    assert state(run).beat_s is None
    run.join()
    run.report(RelayStats(10, 1000, 5, 500, 1, 2))
    run.after(0.5)
    run.now_s += 0.25
    run.say(Beat(1))
    run.now_s += 0.5
    now = state(run)
    assert (now.name, now.up, now.silent_s, now.beat_s) == (NAME, True, 0.5, 0.25)
    assert (now.reconnects, now.resyncs) == (0, 0)
    run.report(RelayCut("cut"))
    run.report(RelayJoined())
    run.nodes.on_exit(RELAY)
    run.report(RelayStats(1, 100, 1, 50, 0, 0))
    now = state(run)
    assert not now.up
    assert (now.reconnects, now.resyncs) == (1, 1)
    assert now.relay == RelayStats(11, 1100, 6, 550, 1, 2)


def test_an_outpost_is_not_awaited_before_ray_can_have_started_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run(monkeypatch, serves=False)
    run.phase = Phase.STARTING  # it connects to the cluster
    run.report(RelayBound(4711))
    run.after(run.timeouts.join_s + 1)
    run.phase = Phase.READY
    run.after(run.timeouts.join_s - 1)
    assert not run.failures
    run.after(2)
    assert len(run.failures) == 1


def test_only_the_last_heartbeats_are_awaited() -> None:
    counts = NodeCounts()
    beats = [counts.beat(float(number)) for number in range(MOST_BEATS + 1)]
    seen = []
    for beat in beats[:2]:
        counts.answered(beat, 500.0)
        seen.append(counts.state(NAME, up=True, silent_s=0.0).beat_s)
    assert seen == [None, 499.0]
