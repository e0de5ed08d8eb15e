"""Whether the tree can serve, when a child is restarted, and how exits are described."""

from __future__ import annotations

import signal

import pytest

from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.messages.logs import LEVEL_END, access_line
from dynamo_cli.supervisor.logs import MAX_LINE_BYTES, TAIL_LINES, LogLines, OutputLine
from dynamo_cli.supervisor.verdict import describe_exit, judge
from dynamo_cli.topology import ProcessId

ALL_READY = {"frontend": Phase.READY, "processor 0": Phase.READY, "worker 0": Phase.READY}


def table(phases: dict[str, Phase], reason: str = "") -> list[ProcessState]:
    ids = [(name, ProcessId.parse(name), phase) for name, phase in phases.items()]
    return [
        ProcessState(name, process.role, process.index, phase, reason, 1, 0, 0, 0)
        for name, process, phase in ids
    ]


@pytest.mark.parametrize(
    ("changes", "serving", "hopeless", "reason"),
    [
        ({}, True, False, ""),
        ({"router": Phase.BACKOFF}, True, False, ""),
        ({"worker 1": Phase.FAILED}, True, False, ""),
        ({"worker 0": Phase.LOADING}, False, False, "worker 0 is loading weights (so it is)"),
        ({"worker 0": Phase.FAILED}, False, True, "every worker failed: so it is"),
        ({"worker 0": Phase.FAILED, "worker 1": Phase.PROBING}, False, False, "probing"),
        ({"processor 0": Phase.BACKOFF}, False, False, "processor 0 is restarting (so it is)"),
        ({"frontend": Phase.FAILED}, False, True, "every frontend failed"),
    ],
)
def test_it_serves_with_one_ready_process_of_each_needed_role(
    changes: dict[str, Phase], serving: bool, hopeless: bool, reason: str
) -> None:
    verdict = judge(table(ALL_READY | changes, reason="so it is"))
    assert (verdict.serving, verdict.hopeless) == (serving, hopeless)
    assert reason in verdict.reason


def test_what_was_never_started_is_named() -> None:
    assert judge(table({"frontend": Phase.READY})).reason == "processor has not been started yet"


@pytest.mark.parametrize(
    ("exit_code", "says"),
    [
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-signal.SIGKILL, "SIGKILL: killed from outside"),
        (-signal.SIGSEGV, "SIGSEGV: a crash in native code"),
        (-signal.SIGUSR1, "SIGUSR1"),
        (-99, "signal 99"),
        (None, "it is not known how"),
    ],
)
def test_exit_codes_in_words(exit_code: int | None, says: str) -> None:
    assert describe_exit(exit_code).startswith(says)


def test_log_lines_know_their_level_and_come_whole() -> None:
    lines = LogLines()
    assert lines.feed(f"ERROR{LEVEL_END}bad".encode()) == []
    assert lines.feed(b" thing\nprinted\n\nhal") == [
        OutputLine("ERROR", "bad thing"),
        OutputLine("INFO", "printed"),
    ]
    assert lines.feed(b"f \xff") == []
    assert lines.end() == [OutputLine("INFO", "half \N{REPLACEMENT CHARACTER}")]
    assert lines.end() == []


def test_lines_about_requests_are_no_last_words() -> None:
    lines = LogLines()
    assert lines.feed(access_line(b'{"a": "\\u001b"}') + b"ERROR\x1fbad\n") == [
        OutputLine("INFO", '{"a": "\\u001b"}', access=True),
        OutputLine("ERROR", "bad"),
    ]
    assert list(lines.tail) == ["bad"]


@pytest.mark.parametrize("torn", ['{"a": 1', '{"a"INFO}', "[1]", "1", "nothing"])
def test_a_torn_line_about_a_request_is_an_ordinary_line(torn: str) -> None:
    """Views may rely on the text being a JSON object."""
    (line,) = LogLines().feed(access_line(torn.encode()))
    assert not line.access
    assert line.text == torn


def test_a_line_without_an_end_is_cut() -> None:
    lines = LogLines()
    found = [line for _ in range(40) for line in lines.feed(b"x" * 100_000)]
    assert len(found) >= 3
    assert len(lines._rest) <= MAX_LINE_BYTES


def test_the_last_lines_that_explain_something_are_kept() -> None:
    lines = LogLines()
    for number in range(100):
        lines.feed(f"WARNING{LEVEL_END}line {number}\nprinted {number}\n".encode())
    assert len(lines.tail) == TAIL_LINES
    assert lines.tail[-1] == "line 99"


TRACE = "Traceback (most recent call last):\n  File ...\nValueError: no"


@pytest.mark.parametrize(
    ("raw", "explains"),
    [
        ("INFO\x1floading\nDEBUG\x1fmore", ""),
        ("WARNING\x1fcareful\nINFO\x1fgoing on", "careful"),
        ("ERROR\x1fbad\nCRITICAL\x1fworse", "bad\nworse"),
        ("a library prints", ""),
        (f"printed\n{TRACE}", TRACE),
        (f"{TRACE}\nINFO\x1fgoing on\nprinted", TRACE),
        ("Fatal Python error: Aborted\nThread 1:", "Fatal Python error: Aborted\nThread 1:"),
        (
            "terminate called after throwing\n  what(): x",
            "terminate called after throwing\n  what(): x",
        ),
        ("free(): invalid pointer", "free(): invalid pointer"),
        ("python: a.c:1: f: Assertion `x' failed.", "python: a.c:1: f: Assertion `x' failed."),
    ],
)
def test_last_words_are_warnings_and_tracebacks(raw: str, explains: str) -> None:
    lines = LogLines()
    lines.feed(raw.encode() + b"\n")
    assert "\n".join(lines.tail) == explains
