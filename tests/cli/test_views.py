"""What a run looks like without a dashboard."""

from __future__ import annotations

import io
import re
import time

from dynamo_cli.cli.views import NullView, PlainView
from dynamo_cli.messages import Phase, ProcessState
from dynamo_cli.topology import Role

SECOND_NS = 1_000_000_000


def state(role: Role, phase: Phase, reason: str = "") -> ProcessState:
    now = time.monotonic_ns()
    return ProcessState(
        name=str(role),
        role=role,
        index=0,
        phase=phase,
        reason=reason,
        pid=1,
        since_ns=now - SECOND_NS,
        started_ns=now - 3 * SECOND_NS,
        restarts=0,
    )


def test_plain_lines_have_time_level_and_role_and_tell_each_phase_once() -> None:
    out = io.StringIO()
    view = PlainView(out)
    for phase in (Phase.STARTING, Phase.STARTING, Phase.READY):
        view.processes([state(Role.ROUTER, phase)])
    view.notice("WARNING", "mind the gap")
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO     router       starting", lines[0])
    assert lines[1].endswith("router       ready")
    assert lines[2].endswith("WARNING  dynamo-llm   mind the gap")


def test_engine_logs_are_shown_from_the_level_asked_for_but_warnings_always() -> None:
    for level, shown in (("ERROR", "we"), ("WARNING", "we"), ("INFO", "iwe"), ("DEBUG", "diwe")):
        out = io.StringIO()
        view = PlainView(out, level)
        for name in ("DEBUG", "INFO", "WARNING", "ERROR"):
            view.log("worker 0", name, name[0].lower())
        assert "".join(line[-1] for line in out.getvalue().splitlines()) == shown


def test_null_view_has_errors_only() -> None:
    out = io.StringIO()
    view = NullView(out)
    view.processes([state(Role.ROUTER, Phase.STARTING)])
    view.notice("WARNING", "quiet")
    view.serving("http://x", "curl")
    assert out.getvalue() == ""
    view.notice("ERROR", "loud")
    assert out.getvalue().endswith("loud\n")
