"""Rows of the process table for planned processes that wait for their first start. Pure.

Without them a server would seem whole while some of its workers do not exist yet.
"""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.topology import ProcessId


class NotStarted:
    """Remembers since when each of these processes is planned."""

    def __init__(self) -> None:
        self._since_ns: dict[ProcessId, int] = {}

    def rows(
        self, config: ServeConfig, missing: Iterable[tuple[ProcessId, str]], now_ns: int
    ) -> list[ProcessState]:
        """The rows of these processes.

        Args:
            config: the plan.
            missing: each process without a child, and what it waits for, in words for people.
            now_ns: monotonic time.
        """
        reasons = dict(missing)
        self._since_ns = {process: self._since_ns.get(process, now_ns) for process in reasons}
        return [
            self._row(config, process, reason, self._since_ns[process])
            for process, reason in reasons.items()
        ]

    @staticmethod
    def _row(config: ServeConfig, process: ProcessId, reason: str, since_ns: int) -> ProcessState:
        node = config.node_of(process)
        return ProcessState(
            name=process.name,
            role=process.role,
            index=process.index,
            phase=Phase.STARTING,
            reason=reason,
            pid=0,
            since_ns=since_ns,
            started_ns=since_ns,
            restarts=0,
            device=config.device_of(process),
            gpus=tuple(device.name for device in config.devices_of(process)),
            node=node.name if node is not None else "",
        )
