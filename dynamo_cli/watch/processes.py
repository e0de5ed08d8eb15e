"""Makes the view of a process from the supervisor's table. Pure."""

from __future__ import annotations

from dynamo_cli.messages.lifecycle import ProcessState
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.host import ProcessUse
from dynamo_cli.watch.schema import ProcessView

_UNKNOWN = ProcessUse(0, 0.0)


def process_view(state: ProcessState, now_ns: int, use: ProcessUse | None = None) -> ProcessView:
    """Return the current view of a process.

    Args:
        state: its row in the table.
        now_ns: current time, CLOCK_MONOTONIC as in `state`.
        use: what it uses; None if that is not measured.
    """
    use = use or _UNKNOWN
    return ProcessView(
        name=state.name,
        role=str(state.role),
        index=state.index,
        phase=state.phase,
        reason=state.reason,
        pid=state.pid,
        phase_s=(now_ns - state.since_ns) / SECOND_NS,
        uptime_s=(now_ns - state.started_ns) / SECOND_NS,
        restarts=state.restarts,
        device=state.device,
        rss_bytes=use.rss_bytes,
        cpu_s=use.cpu_s,
        cpu_cores=use.cpu_cores,
        cpu_demand=use.cpu_demand,
    )
