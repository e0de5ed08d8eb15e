"""Makes the view of a process from the supervisor's table. Pure."""

from __future__ import annotations

from dynamo_cli.messages.lifecycle import ProcessState
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.schema import ProcessView


def process_view(state: ProcessState, now_ns: int, rss_bytes: int = 0) -> ProcessView:
    """Return the current view of a process.

    Args:
        state: its row in the table.
        now_ns: current time, CLOCK_MONOTONIC as in `state`.
        rss_bytes: its memory; 0 if that is not measured.
    """
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
        rss_bytes=rss_bytes,
    )
