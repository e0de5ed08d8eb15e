"""Rows of the process table for planned processes that were never started.

Without them a server would seem whole while some of its workers do not exist yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container

from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.topology import ProcessId

Awaits = Callable[[ProcessId, Phase], tuple[Phase, str]]
"""Gives the phase of a process and, in words, what it waits for; see `Tree`."""


class NotStarted:
    """Remembers since when each of these processes is planned."""

    def __init__(self) -> None:
        self._since_ns: dict[ProcessId, int] = {}

    def rows(
        self, config: ServeConfig, children: Container[ProcessId], awaits: Awaits
    ) -> list[ProcessState]:
        """The rows of the planned processes that are not among `children`."""
        now_ns = time.monotonic_ns()
        missing = [process for process in config.tree() if process not in children]
        self._since_ns = {process: self._since_ns.get(process, now_ns) for process in missing}
        return [
            self._row(config, process, *awaits(process, Phase.STARTING), since_ns)
            for process, since_ns in self._since_ns.items()
        ]

    @staticmethod
    def _row(
        config: ServeConfig, process: ProcessId, phase: Phase, reason: str, since_ns: int
    ) -> ProcessState:
        node = config.node_of(process)
        return ProcessState(
            name=process.name,
            role=process.role,
            index=process.index,
            phase=phase,
            reason=reason,
            pid=0,
            since_ns=since_ns,
            started_ns=since_ns,
            restarts=0,
            device=config.device_of(process),
            gpus=tuple(device.name for device in config.devices_of(process)),
            node=node.name if node is not None else "",
        )
