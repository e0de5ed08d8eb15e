"""Forms of log lines: which one a stream gets, colours, and priorities for the journal."""

from __future__ import annotations

import io
import json
import os
import tempfile
from typing import TextIO

import pytest

from dynamo_cli.cli import forms
from dynamo_cli.host import journal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stream_of(name: str) -> TextIO:
    return Terminal() if name == "terminal" else io.StringIO()


@pytest.mark.parametrize(
    ("log_format", "stream", "environment", "form"),
    [
        ("text", "terminal", {"TERM": "xterm"}, forms.coloured_line),
        ("text", "terminal", {"TERM": "dumb"}, forms.line),
        ("text", "terminal", {"TERM": "xterm", "NO_COLOR": "1"}, forms.line),
        ("text", "terminal", {"TERM": "xterm", "NO_COLOR": ""}, forms.coloured_line),
        ("text", "pipe", {"TERM": "xterm"}, forms.line),
        ("text", "pipe", {"JOURNAL_STREAM": "8:1"}, forms.line),
        ("json", "terminal", {"TERM": "xterm"}, forms.json_line),
    ],
)
def test_colours_are_for_terminals_only(
    log_format: str, stream: str, environment: dict[str, str], form: forms.LineForm
) -> None:
    assert forms.form_of(log_format, stream_of(stream), environment) is form


def test_the_journal_is_known_by_the_stream_and_not_by_the_variable_alone() -> None:
    with tempfile.TemporaryFile("w") as file, tempfile.TemporaryFile("w") as other:
        found = os.fstat(file.fileno())
        environment = {journal.STREAM_VARIABLE: f"{found.st_dev}:{found.st_ino}"}
        assert forms.form_of("text", file, environment) is forms.journal_line
        assert forms.form_of("text", other, environment) is forms.line
        assert forms.form_of("json", file, environment) is forms.journal_json_line
        assert forms.form_of("json", other, environment) is forms.json_line


def test_lines_for_the_journal_have_a_priority_each_and_no_time() -> None:
    assert forms.journal_line("worker 0", "ERROR", "one\ntwo") == "<3>worker 0     one\n<3>two"
    access = forms.journal_line("frontend", "INFO", "request", '{"id":"a"}')
    assert access == "<6>frontend     request id=a"
    as_json = forms.journal_json_line("worker 0", "ERROR", "one\ntwo")
    assert (as_json[:3], json.loads(as_json[3:])["message"]) == ("<3>", "one\ntwo")
    marks = [journal.priority(level) for level in ("CRITICAL", "WARNING", "DEBUG", "?")]
    assert marks == ["<2>", "<4>", "<7>", "<6>"]


def test_only_warnings_and_errors_have_a_colour() -> None:
    assert "\x1b[33mWARNING \x1b[0m " in forms.coloured_line("router", "WARNING", "mind")
    assert "\x1b" not in forms.coloured_line("router", "INFO", "fine")
