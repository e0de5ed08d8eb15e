"""The lines that show a run without a dashboard."""

from __future__ import annotations

import io
import json
import re
import time

from dynamo_cli.cli.forms import json_line
from dynamo_cli.cli.views import NullView, PlainView
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS


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
    for phase in (Phase.STARTING, Phase.STARTING, Phase.READY, Phase.BACKOFF):
        view.processes([state(Role.ROUTER, phase)])
    view.notice("WARNING", "mind the gap")
    lines = out.getvalue().splitlines()
    assert len(lines) == 3, "a death has a line of the supervisor's own"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO     router       starting", lines[0])
    assert lines[1].endswith("router       ready")
    assert lines[2].endswith("WARNING  dynamo-llm   mind the gap")


def test_lines_of_requests_have_fields() -> None:
    out = io.StringIO()
    PlainView(out).access("frontend", '{"id":"a b","n":3,"t":1.5,"w":null,"f":"stop","e":""}')
    assert out.getvalue().endswith(
        'INFO     frontend     request id="a b" n=3 t=1.5 w=null f=stop e=""\n'
    )


def test_a_line_of_a_request_that_moved_says_from_where_to_where_and_why() -> None:
    move = {"from": "worker 0", "to": "worker 1", "reason": "died", "output_tokens": 12}
    lost = {"from": "worker 1", "to": None, "reason": "stalled", "output_tokens": 20}
    fields = {"id": "a", "moved": [move | {"gap_ms": 35.2}, lost | {"gap_ms": None}]}
    out = io.StringIO()
    PlainView(out).access("frontend", json.dumps(fields))
    assert out.getvalue().endswith(
        " id=a moved=worker0>worker1(died,12tokens,35ms),worker1>none(stalled,20tokens)\n"
    )
    assert (
        json.loads(json_line("frontend", "INFO", "request", json.dumps(fields)))["moved"]
        == (fields["moved"])
    )


def test_json_lines_are_objects() -> None:
    out = io.StringIO()
    view = PlainView(out, form=json_line)
    view.processes([state(Role.ROUTER, Phase.READY)])
    view.log("worker 0", "ERROR", 'bad "thing"')
    view.notice("ERROR", "two\nlines")
    view.access("frontend", '{"id":"a"}')
    view.access("frontend", "{}")
    ready, bad, two, access, bare = map(json.loads, out.getvalue().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", ready.pop("ts"))
    assert ready == {"level": "INFO", "process": "router", "message": "ready"}
    assert (bad["message"], two["message"]) == ('bad "thing"', "two\nlines")
    assert (access["message"], access["id"]) == ("request", "a")
    assert bare.keys() == {"ts", "level", "process", "message"}


def test_what_is_shown_depends_on_the_level() -> None:
    for level, own, children in (
        (None, "iwe", "we"),
        ("error", "e", "e"),
        ("WARNING", "we", "we"),
        ("info", "iwe", "iwe"),
        ("debug", "diwe", "diwe"),
    ):
        out = io.StringIO()
        view = PlainView(out, level)
        for name in ("DEBUG", "INFO", "WARNING", "ERROR"):
            view.notice(name, name[0].lower())
        assert "".join(line[-1] for line in out.getvalue().splitlines()) == own
        out = io.StringIO()
        view = PlainView(out, level)
        for name in ("DEBUG", "INFO", "WARNING", "ERROR"):
            view.log("worker 0", name, name[0].lower())
        assert "".join(line[-1] for line in out.getvalue().splitlines()) == children


def test_null_view_has_errors_only() -> None:
    out = io.StringIO()
    view = NullView(out)
    view.processes([state(Role.ROUTER, Phase.STARTING)])
    view.notice("WARNING", "quiet")
    view.serving("http://x", "curl")
    assert out.getvalue() == ""
    view.notice("ERROR", "loud")
    assert out.getvalue().endswith("loud\n")
