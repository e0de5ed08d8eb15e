"""The supervisor itself: a tree whose number of workers can be changed while it serves."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_cli.errors import DynamoError, NotReady
from dynamo_cli.messages.flows import ToSupervisor
from dynamo_cli.messages.lifecycle import Phase, Rescale, Rescaled
from dynamo_cli.supervisor.base_tree import Tree
from dynamo_cli.supervisor.child import Child
from dynamo_cli.supervisor.scaling import rescaled
from dynamo_cli.topology import ProcessId, Role

SENDERS = (Role.ROUTER, Role.PROCESSOR)
"""The roles that send requests to workers, or choose the worker of a request."""


class Supervisor(Tree):
    """One run of the process tree. Make it in a running event loop."""

    def on_report(self, child: Child, message: ToSupervisor, descriptors: Sequence[int]) -> None:
        """Act on a message of a child."""
        if isinstance(message, Rescale):
            child.control.send(self._rescale(message.count))
        else:
            super().on_report(child, message, descriptors)

    def _retired(self, child: Child) -> None:
        """Forget a worker that has retired; the number may have been raised again meanwhile."""
        super()._retired(child)
        self._start_workers()

    def _start(self, process: ProcessId) -> None:
        if self._holder(process) is None:
            super()._start(process)

    def _awaits(self, process: ProcessId, phase: Phase) -> tuple[Phase, str]:
        if (holder := self._holder(process)) is not None:
            return phase, f"waiting for the GPUs of {holder.process.name}"
        return super()._awaits(process, phase)

    def _holder(self, process: ProcessId) -> Child | None:
        """A worker that retires, and still has a GPU that the plan gives to a new process now.

        Once it has ended, `_retired` starts the new one.
        """
        if process in self._children:
            return None  # its GPUs have been its own since the plan has it
        node = self._config.node_of(process)
        place = node.name if node is not None else ""
        gpus = {device.name for device in self._config.devices_of(process)}
        retiring = (child for child in self._alive() if child.process in self._retirements)
        for child in retiring:
            if child.node == place and not gpus.isdisjoint(child.start.gpus):
                return child
        return None

    def _rescale(self, count: int) -> Rescaled:
        """Change the number of workers in the plan, and begin to start or retire workers."""
        before = self._config.workers
        try:
            if not self._has_served or self._ending.begun:
                raise NotReady("the number of workers changes only while the server serves.")
            if count > before and self._start_of(ProcessId(Role.WORKER)) is Phase.FAILED:
                raise NotReady("no worker can be added: the zygote, which starts it, is given up.")
            self._config = rescaled(self._config, count, self._lost_nodes())
        except DynamoError as error:
            return Rescaled(before, type(error).__name__, error.message)
        for index in reversed(range(count, before)):
            self._retire(ProcessId(Role.WORKER, index))
        self._start_workers()
        if count != before:
            self._log_fanout.notice(
                "INFO", f"the number of workers changes from {before} to {count}"
            )
        return Rescaled(count)

    def _lost_nodes(self) -> set[str]:
        """Names of the nodes that are lost."""
        return set()

    def _start_workers(self) -> None:
        """Start workers of the plan that do not exist; without a zygote they wait for it."""
        for index in range(self._config.workers):
            process = ProcessId(Role.WORKER, index)
            can_start = self._start_of(process) is Phase.READY and not self._ending.begun
            if process not in self._children and can_start:
                self._start(process)
        self._publish()

    def _retire(self, process: ProcessId) -> None:
        worker = self._children.get(process)
        if worker is None or not worker.alive:
            self._forget(process)
        elif process not in self._retirements:
            senders = (other for other in self._alive() if other.process.role in SENDERS)
            # Who has no link to it, because its node is lost, could never hear that it has ended.
            users = self._links.linked(worker, senders)
            self._background.start(self._retirements.retire(worker, users))
