"""What a run looks like: plain lines and the live table."""

from __future__ import annotations

import io
import re
import time

from rich.console import Console

from dynamo_cli.cli.views import LiveView, NullView, PlainView
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


def test_the_live_table_shows_phase_time_and_reason_within_80_columns() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    view = LiveView(console)
    view.processes(
        [
            state(Role.ROUTER, Phase.READY),
            state(Role.WORKER, Phase.LOADING, "a long reason " * 20),
            state(Role.FRONTEND, Phase.FAILED, "no luck"),
        ]
    )
    view.close()
    recorder = Console(record=True, width=80, file=io.StringIO())
    recorder.print(view.render())
    text = recorder.export_text()
    assert re.search(r"router +● ready +2\.0", text)
    assert re.search(r"worker +○ loading weights +3\.0", text)
    assert "✗ failed" in text
    assert len(text.splitlines()) == 4, "a long reason is cut, not wrapped"


def test_the_url_and_a_curl_stay_when_the_table_goes() -> None:
    out = io.StringIO()
    view = LiveView(Console(file=out, force_terminal=True, width=80, color_system=None))
    view.processes([state(Role.ROUTER, Phase.STARTING)])
    view.serving("http://localhost:8181/v1", "curl http://localhost:8181/v1/models")
    last = out.getvalue().split("ready in")[1]
    assert "http://localhost:8181/v1\n" in last
    assert "\ncurl http://localhost:8181/v1/models\n" in last
