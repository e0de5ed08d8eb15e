"""The links between children: made anew at each start of a child, and ended when it exits."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from dynamo_cli.config import ENGINE_ROLES
from dynamo_cli.ipc.switchboard import join
from dynamo_cli.messages.lifecycle import LinkDown, PeerEnded
from dynamo_cli.supervisor.child import Child
from dynamo_cli.topology import ProcessId, Role, links_of


class Links:
    """All links by their two ends, each with a generation: a number that is used only once."""

    def __init__(self) -> None:
        self._generation_of: dict[frozenset[ProcessId], int] = {}
        self._generations = itertools.count(1)

    def join(self, child: Child, others: Iterable[Child]) -> None:
        """Make links between `child` and those of `others` that the topology joins it with."""
        ends = {one.process: one for one in (child, *others) if one.reachable}
        peers = [process for process in ends if process != child.process]
        for a, b, spec in links_of(child.process, peers):
            if not spec.joins(ends[a].node, ends[b].node):
                continue
            generation = self._generation_of[frozenset((a, b))] = next(self._generations)
            if not ends[a].join_beside(ends[b], generation):
                join(ends[a].control, ends[b].control, a, b, spec=spec, generation=generation)

    def linked(self, child: Child, others: Iterable[Child]) -> list[Child]:
        """Those of `others` that have a link with `child`."""
        process = child.process
        return [one for one in others if frozenset((one.process, process)) in self._generation_of]

    def part(self, child: Child, others: Iterable[Child], reason: str) -> None:
        """Tell those of `others` that have a link with `child` that it is down, and why."""
        controls = {other.process: other.control for other in others}
        for a, b, _ in links_of(child.process, list(controls)):
            generation = self._generation_of.pop(frozenset((a, b)), 0)
            if not generation:
                continue  # they have no link
            peer = b if a == child.process else a
            controls[peer].send(LinkDown(child.process.name, generation, reason))

    def ended(self, child: Child, others: Iterable[Child], reason: str) -> None:
        """Part a child whose process has ended, and tell the host cache that it has."""
        others = list(others)
        self.part(child, others, reason)
        for other in others if child.process.role in ENGINE_ROLES else ():
            # An outpost itself tells that of its node, also while the head does not hear of it.
            if other.process.role is Role.HOST_CACHE and not other.node:
                other.control.send(PeerEnded(child.process.name))
