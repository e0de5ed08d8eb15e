"""A process of the supervisor's table as it is shown. Pure."""

from __future__ import annotations

from dynamo_cli.messages.lifecycle import ProcessState
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.schema import ProcessView


def process_view(state: ProcessState, now_ns: int, rss_bytes: int = 0) -> ProcessView:
    """As of now.

    Args:
        now_ns: by the monotonic clock, as in `state`.
        rss_bytes: its memory; 0 where nobody measures it.
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
