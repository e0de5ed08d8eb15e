"""Streams that are closed, full or of another encoding; a folder that is gone."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.places.small import COMMAND as SMALL
from tests.places.small import Tree
from tests.support.server import COMMAND, die_with_the_test

ROOT = Path(__file__).parents[2]
DRY = ("--model", "tiny", "--engine", "mock", "--workers", "2", "--dry-run")
LATIN = {"PYTHONIOENCODING": "latin-1"}


def shell(line: str, *words: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """A line of bash in which "$@" stands for a command."""
    environment = os.environ | options.pop("environment", {})
    done = subprocess.run(
        ["bash", "-c", line, "-", *words],
        capture_output=True,
        check=False,
        env=environment,
        **options,
    )
    assert b"Traceback" not in done.stdout + done.stderr, done.stderr
    assert b"Exception ignored" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("command", [DRY, ("--help",), ("top", "--once", "--url", "localhost:1")])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_what_an_encoding_lacks_is_replaced(command: tuple[str, ...], encoding: str) -> None:
    done = shell('"$@"', COMMAND, *command, environment={"PYTHONIOENCODING": encoding})
    assert done.returncode == (1 if command[0] == "top" else 0)
    assert done.stdout or command[0] == "top"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_as_good_as_an_empty_one(closed: str) -> None:
    done = shell(f'"$@" {closed}', COMMAND, *DRY)
    assert done.returncode == 0
    assert shell(f'"$@" {closed}', COMMAND, "--mode").returncode == 2


@pytest.mark.parametrize("command", [DRY, (*DRY, "--json"), ("--version",)])
def test_a_full_disk_is_told(command: tuple[str, ...]) -> None:
    done = shell('"$@" >/dev/full', COMMAND, *command)
    assert done.returncode == 1
    assert b"cannot write to standard output: no space left on device" in done.stderr


def test_a_reader_that_has_left_needs_no_words() -> None:
    done = shell('{ sleep 0.1; "$@"; echo $? >&3; } 3>&2 | true', COMMAND, *DRY)
    assert done.stderr == b"1\n"


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_word_that_is_no_text_is_told(form: str) -> None:
    done = shell("\"$@\" --model $'\\xff'", COMMAND, "--log-format", form)
    assert done.returncode == 1
    assert b"not in the Hugging Face cache" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-"])
def test_children_get_no_descriptor_of_a_stream(closed: str) -> None:
    """Their control sockets would be taken for standard input, and closed."""
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" {closed}', "-", *SMALL],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_the_test,  # noqa: PLW1509 - it only makes a system call
    )
    try:
        running = Tree(process)
        running.wait_ready()
        running.kill_and_wait()
        running.kill_and_wait("frontend")
        assert running.stop() == 0
    finally:
        process.kill()
        process.wait()


def test_a_folder_that_is_gone_is_told() -> None:
    line = 'cd "$0" && rmdir "$0" && exec "$@"'
    done = subprocess.run(
        ["bash", "-c", line, tempfile.mkdtemp(), COMMAND, *DRY], capture_output=True, check=True
    )
    assert done.stderr == b"dynamo-llm: the working directory is gone: relative paths begin at /\n"


def test_remarks_that_cannot_be_written_keep_nobody_from_the_answer(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp":0,"input_length":512,"output_length":2,"hash_ids":[1]}\n' * 9)
    done = shell('"$@" 2>/dev/full', COMMAND, "replay", str(trace), "--json")
    assert done.returncode == 0
    assert b"verdict" in done.stdout
