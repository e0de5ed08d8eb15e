"""The outpost itself: starts, links, watches and ends the children of its node for the head."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

from dynamo_cli.cluster_config import RelayConfig
from dynamo_cli.config import ENGINE_ROLES, Devices, HostCacheConfig, WorkerConfig, ZygoteConfig
from dynamo_cli.errors import ResourceError
from dynamo_cli.host import oserrors
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.ipc.link import passed_ring
from dynamo_cli.ipc.switchboard import join
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.cluster import (
    HEAD_UNHEARD,
    Beat,
    Carry,
    ChildGone,
    ChildTold,
    ChildWrote,
    FromSupervisor,
    JoinBeside,
    JoinChild,
    LivingChildren,
    PartChild,
    Present,
    RelayConnection,
    RelayCut,
    RelayDown,
    RelayUp,
    ResetLinks,
    SignalChild,
    StartChild,
    TellChild,
)
from dynamo_cli.messages.flows import ToChild, ToSupervisor
from dynamo_cli.messages.lifecycle import (
    Fatal,
    Forked,
    LinkDown,
    LinkUp,
    PeerEnded,
    Phase,
    PhaseChange,
    Pong,
    SetPhase,
)
from dynamo_cli.serve_config import RestartPolicy
from dynamo_cli.supervisor.awake import AwakeClock
from dynamo_cli.supervisor.background import Background
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.local_child import LocalChild
from dynamo_cli.supervisor.logs import SENT_CHARS, OutputLine, cut
from dynamo_cli.supervisor.orphans import Orphans
from dynamo_cli.supervisor.post import Post
from dynamo_cli.supervisor.revival import Restarts
from dynamo_cli.supervisor.watching import Watching
from dynamo_cli.topology import ZYGOTE, ProcessId, Role, links_of

RELAY = ProcessId(Role.RELAY)
OWN = (RELAY, ZYGOTE)
"""The children that the outpost itself needs. The head does not know them."""

BOOT = Path("/proc/sys/kernel/random/boot_id")

logger = logging.getLogger(__name__)


class Outpost:
    """One outpost. Make it in a running event loop.

    Args:
        post: what the head sent to start it, completed by `prepare`.
    """

    def __init__(self, post: Post) -> None:
        self._post = post
        self._name = uuid.uuid4().hex
        self._children: dict[ProcessId, LocalChild] = {}
        self._reported: dict[ProcessId, Phase] = {}
        self._links: dict[tuple[ProcessId, str], int] = {}
        self._waiting: dict[ProcessId, LocalChild] = {}
        self._restarts = {one: Restarts(RestartPolicy()) for one in OWN}
        self._shift_ns = 0
        self._links_reset = self._connected = False
        self._lines = 0
        self._look_s = post.timeouts.beat_s / 2
        self._awake = AwakeClock(self._look_s, time.monotonic)
        self._heard_s = self._awake.now()
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._orphans = Orphans(self._alive)
        self._watching = Watching(post.worker_timeout_s, self._alive)
        self._background = Background(self._on_bug)
        self._from_head = Decoder(FromSupervisor)
        self._to_child = Decoder(ToChild)

    async def run(self) -> str:
        """Serve the head until it is gone; returns why it ended."""
        loop = asyncio.get_running_loop()
        self._orphans.adopt(loop)
        self._background.watch(loop)
        self._begin(RELAY, self._post.relay)
        if self._post.forks:
            self._begin(ZYGOTE, ZygoteConfig(self._post.engine))
        self._background.start(self._watching.run())
        self._background.start(self._listen())
        try:
            return await self._ended
        finally:
            self._background.cancel()
            for child in list(self._alive()):
                child.kill()

    async def _listen(self) -> None:
        """End when the head has been silent for too long."""
        while not self._ended.done():
            await asyncio.sleep(self._look_s)
            if (silent_s := self._awake.look() - self._heard_s) > self._limit_s:
                self._end(f"{HEAD_UNHEARD} for {silent_s:.0f} s")

    @property
    def _limit_s(self) -> float:
        """How long the head may be silent, seconds: longer until it was heard for the first time,
        while the relay is not ready, and while there is a connection to it."""
        timeouts, relay = self._post.timeouts, self._children[RELAY]
        if not self._links_reset or not relay.alive or relay.phase is not Phase.READY:
            return timeouts.join_s
        return timeouts.frozen_s if self._connected else timeouts.headless_s

    def _on_bug(self, what: str, trace: list[str]) -> None:
        """End after an unexpected error, since the state may be wrong; the head starts another
        outpost."""
        logger.critical("%s", "\n".join(trace))
        self._end(f"an unexpected error: {what}")

    def _end(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_result(why)

    def _alive(self) -> Iterator[LocalChild]:
        return (child for child in self._children.values() if child.alive)

    def _others(self) -> Iterator[LocalChild]:
        return (child for child in self._alive() if child.process != RELAY)

    # -- children of its own -----------------------------------------------------------------

    def _begin(self, process: ProcessId, config: RelayConfig | ZygoteConfig) -> None:
        child = LocalChild(Start(process, config, self._post.engine.log_level), self)
        self._children[process] = child
        child.spawn()

    def _again(self, child: Child) -> None:
        """Start the relay or the zygote again."""
        if child.process == RELAY:
            self._connected = False
            self._part_all("the relay of the node has ended")
        if child.failure is not None and not child.stalled:
            self._end(f"{child.process.name}: {child.failure[1]}")
            return
        delay_s = self._restarts[child.process].next_delay_s(child.ready_s, killed=True)
        if delay_s is None:
            self._end(f"{child.process.name} ended again and again")
            return
        config: Any = child.start.config
        asyncio.get_running_loop().call_later(delay_s, self._begin_again, child.process, config)

    def _begin_again(self, process: ProcessId, config: RelayConfig | ZygoteConfig) -> None:
        if not self._ended.done():
            self._begin(process, config)

    # -- what children report ----------------------------------------------------------------

    def on_report(self, child: Child, message: ToSupervisor, descriptors: Sequence[int]) -> None:
        """Act on a message of a child, or pass it on to the head."""
        for descriptor in descriptors:
            os.close(descriptor)
        match message:
            case Carry(payload):
                self._obey(self._from_head(payload))
            case RelayCut(reason):
                self._part_all(reason)
            case RelayConnection(up):
                self._connected = up
            case Pong():
                self._watching.answered(child)
                return
            case PhaseChange(phase, detail):
                child.move_to(phase, detail)
                self._reported[child.process] = phase
                if child.process == RELAY:
                    self._heard_s = self._awake.now()  # without a relay, the head was not heard
                if child.process in OWN and phase is Phase.READY:
                    child.control.send(SetPhase(phase))
                    self._fork_waiting()
            case Forked(pid):
                child.forked(pid)
            case Fatal(error, text):
                child.failure = (error, text)
        if child.process not in OWN:
            self._tell(ChildTold(child.process.name, encode(message)))

    def on_log(self, child: Child, line: OutputLine) -> None:
        """Pass a line of a child on, not more than people will read."""
        self._lines += 1
        text = line.text if line.access else cut(line.text, SENT_CHARS)
        name = "" if child.process in OWN else child.process.name
        self._tell(ChildWrote(name, line.level, text, line.access, self._lines))

    def on_exit(self, child: Child, exit_code: int | None) -> None:
        """Report the exit of a child; a relay or a zygote is started again."""
        process = child.process
        if self._children.get(process) is not child or self._ended.done():
            return
        if process in OWN:
            self._again(child)
            return
        del self._children[process]
        self._reported.pop(process, None)
        self._waiting.pop(process, None)
        for key in [key for key in self._links if key[0] == process]:
            self._to_relay(RelayDown(self._links.pop(key)))
        for other in self._others():
            if (other.process, process.name) not in self._links:
                self._tell_ended(other, process)
        gone = ChildGone(process.name, exit_code, child.failure, child.stalled, child.last_words)
        self._tell(gone)

    # -- the head ----------------------------------------------------------------------------

    def _to_relay(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        self._children[RELAY].control.send(message, descriptors)

    def _tell(self, message: Message) -> None:
        self._to_relay(Carry(encode(message)))

    def _obey(self, message: Any) -> None:
        self._heard_s = self._awake.now()
        match message:
            case Beat():
                self._tell(message)
            case ResetLinks(boot, now_ns):
                self._reset_links(boot, now_ns)
            case StartChild(process, start, forked):
                self._start(ProcessId.parse(process), pickle.loads(start), forked=forked)
            case JoinChild() | JoinBeside():
                self._link(message)
            case PartChild(process, peer, generation, reason):
                self._part(ProcessId.parse(process), peer, generation, reason)
            case TellChild(process, payload):
                if (child := self._children.get(ProcessId.parse(process))) is not None:
                    self._pass_on(child, self._to_child(payload))
            case SignalChild(process, number):
                if (child := self._children.get(ProcessId.parse(process))) is not None:
                    child.kill(Signals(number))

    def _pass_on(self, child: LocalChild, message: Any) -> None:
        """Pass a message on to a child, and note the phase that the head has set for it."""
        if isinstance(message, SetPhase):
            child.move_to(message.phase)  # only ready children are asked for signs of life
        child.control.send(message)

    def _reset_links(self, boot: str, now_ns: int) -> None:
        self._links_reset = True
        self._shift_ns = 0 if boot == BOOT.read_text().strip() else now_ns - time.monotonic_ns()
        self._part_all("the head has missed messages")
        present = [
            Present(child.process.name, child.pid, self._reported.get(child.process, child.phase))
            for child in self._others()
            if child.process != ZYGOTE
        ]
        self._tell(LivingChildren(self._name, os.getpid(), present, self._lines))

    def _start(self, process: ProcessId, start: Start, *, forked: bool) -> None:
        try:
            config = self._adapted(start.config)
            child = LocalChild(replace(start, config=config, clock_shift_ns=self._shift_ns), self)
            self._children[process] = child
            if forked:
                self._waiting[process] = child
                self._fork_waiting()
            else:
                child.spawn()
                self._tell(ChildTold(process.name, encode(Forked(child.pid))))
        except OSError as error:
            self._children.pop(process, None)
            why = f"it cannot be started: {oserrors.reason(error)}"
            self._tell(ChildGone(process.name, None, (ResourceError.__name__, why)))
        except ResourceError as error:
            self._tell(ChildGone(process.name, None, (ResourceError.__name__, error.message)))

    def _adapted(self, config: Any) -> Any:
        """A child's configuration with what is different on this node: path, GPUs, host cache.

        Raises:
            ResourceError: the node has fewer GPUs than Ray says.
        """
        cache = self._post.host_cache
        if isinstance(config, HostCacheConfig):
            return cache
        if not isinstance(config, WorkerConfig):
            return config
        devices = self._devices([int(one.name) for one in config.engine.devices])
        engine = replace(
            config.engine, path=self._post.engine.path, devices=devices, host_cache=cache
        )
        return replace(config, engine=engine)

    def _devices(self, numbers: Sequence[int]) -> Devices:
        """GPUs of this node by their numbers among those that Ray has given to this run."""
        known = self._post.engine.devices
        if max(numbers, default=-1) >= len(known):
            raise ResourceError(
                f"Ray counts more GPUs on {self._post.node} than the {len(known)} that this run "
                "may use there: see nvidia-smi there, and --num-gpus of ray start."
            )
        return tuple(known[number] for number in numbers)

    def _fork_waiting(self) -> None:
        zygote = self._children.get(ZYGOTE)
        if zygote is not None and zygote.alive and zygote.phase is Phase.READY:
            for child in self._waiting.values():
                child.fork_from(zygote, adopted=self._orphans.adopted)
            self._waiting.clear()

    # -- links -------------------------------------------------------------------------------

    def _link(self, order: JoinChild | JoinBeside) -> None:
        """Make a link, or end the child that lacks it; the head starts it again."""
        process, peer = ProcessId.parse(order.process), ProcessId.parse(order.peer)
        join_it = self._join if isinstance(order, JoinChild) else self._join_beside
        try:
            join_it(process, peer, order.generation)
        except OSError as error:
            self._to_relay(RelayDown(order.generation))
            why = f"its link with {peer.name} cannot be made: {oserrors.reason(error)}"
            child = self._children[process]
            child.failure = (ResourceError.__name__, why)
            child.kill()

    def _join(self, process: ProcessId, peer: ProcessId, generation: int) -> None:
        child = self._children.get(process)
        if child is None or not child.alive:
            self._to_relay(RelayDown(generation))
            return
        ((a, _, spec),) = links_of(process, [peer])
        sizes = (spec.a_to_b_bytes, spec.b_to_a_bytes)
        out_bytes, in_bytes = sizes if a == process else sizes[::-1]
        with (
            passed_ring(out_bytes, f"{process.name} to {peer.name}") as outward,
            passed_ring(in_bytes, f"{peer.name} to {process.name}") as inward,
        ):
            self._links[process, peer.name] = generation
            self._to_relay(RelayUp(generation), (*inward, *outward))
            child.control.send(LinkUp(peer.name, generation), (*outward, *inward))

    def _join_beside(self, process: ProcessId, peer: ProcessId, generation: int) -> None:
        """Link two children of this node, unless one has ended: the head will be told of that."""
        found = [self._children.get(one) for one in (process, peer)]
        ends = {one.process: one for one in found if one is not None and one.alive}
        if len(ends) == 2:
            ((a, b, spec),) = links_of(process, [peer])
            join(ends[a].control, ends[b].control, a, b, spec=spec, generation=generation)
            self._links[process, peer.name] = self._links[peer, process.name] = generation

    def _part(self, process: ProcessId, peer: str, generation: int, reason: str) -> None:
        if self._links.get((process, peer)) == generation:
            del self._links[process, peer]
        self._to_relay(RelayDown(generation))
        if (child := self._children.get(process)) is not None:
            child.control.send(LinkDown(peer, generation, reason))
            other = self._children.get(ended := ProcessId.parse(peer))
            if other is None or not other.alive:
                self._tell_ended(child, ended)

    def _tell_ended(self, child: LocalChild, peer: ProcessId) -> None:
        """Tell a host cache that an engine of this node has ended, after the link to it."""
        if child.process.role is Role.HOST_CACHE and peer.role in ENGINE_ROLES:
            child.control.send(PeerEnded(peer.name))

    def _part_all(self, reason: str) -> None:
        for (process, peer), generation in list(self._links.items()):
            self._part(process, peer, generation, reason)


async def serve(post: Post) -> str:
    """Run an outpost; returns why it ended."""
    return await Outpost(post).run()
