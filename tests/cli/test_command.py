"""The command line as users type it; nothing is started."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dynamo_cli import __version__
from dynamo_cli.cli import app, called, commands, launch
from tests.support.preloaded import LIGHT
from tests.support.server import COMMAND

INSTALLED = f"{Path(COMMAND).parent}:{os.environ['PATH']}"
"""A PATH on which the program is."""


def command(
    *args: str, timeout_s: float = 30, **environment: str
) -> subprocess.CompletedProcess[str]:
    """As a user types it; the process is forked, which saves its imports."""
    variables = os.environ | {"COLUMNS": "80", "TERM": "dumb", "PATH": INSTALLED} | environment
    return LIGHT.run([COMMAND, *args], variables, timeout_s=timeout_s)


def plan(*args: str) -> dict[str, Any]:
    done = command("--model", "tiny", "--dry-run", "--json", *args)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_version() -> None:
    assert command("--version").stdout == f"dynamo-llm {__version__}\n"
    assert command("-V").stdout == f"dynamo-llm {__version__}\n"


def test_help_is_a_command_too() -> None:
    assert command("help").stdout == command("--help").stdout
    assert command("help", "config", "show").stdout == command("config", "show", "--help").stdout


def test_the_model_may_come_first() -> None:
    done = command("tiny", "--workers", "2", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert (
        len([one for one in json.loads(done.stdout)["processes"] if "worker" in one["name"]]) == 2
    )


def test_what_is_to_be_typed_works_where_it_is_told() -> None:
    """A clone's script is not on the PATH; an installed one is."""
    outside = command("stray", PATH="/usr/bin:/bin").stderr
    assert outside.startswith("dynamo-llm: error: no command 'stray'; ")
    told = outside.partition("; ")[2].partition(" --help")[0]
    assert Path(told).samefile(COMMAND)
    inside = command("stray", PATH=INSTALLED).stderr
    assert "; dynamo-llm --help lists them" in inside


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("it is dynamo-llm --version.", "it is x/dynamo-llm --version."),
        ("dynamo-llm config init writes one", "x/dynamo-llm config init writes one"),
        ("not a dynamo-llm server: it", "not a dynamo-llm server: it"),
        ("see y/dynamo-llm --help", "see y/dynamo-llm --help"),
        ("it is dynamo-llm acme/m", "it is x/dynamo-llm acme/m"),
    ],
)
def test_only_commands_are_named_as_called(
    monkeypatch: pytest.MonkeyPatch, text: str, becomes: str
) -> None:
    monkeypatch.setattr(called, "name", lambda: "x/dynamo-llm")
    assert called.as_called(text) == becomes


@pytest.mark.parametrize(
    ("script", "on_path", "name"),
    [
        ("clone/bin/dynamo-llm", "installed", "clone/bin/dynamo-llm"),
        ("clone/bin/dynamo-llm", "clone/bin", "dynamo-llm"),
        ("installed/dynamo-llm", "installed", "dynamo-llm"),
        ("clone/bin/pytest", "installed", "dynamo-llm"),
        ("gone/dynamo-llm", "installed", "dynamo-llm"),
    ],
)
def test_its_name_is_what_works_in_the_same_shell(
    script: str, on_path: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for one in ("clone/bin/dynamo-llm", "clone/bin/pytest", "installed/dynamo-llm"):
        (tmp_path / one).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / one).touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / on_path))
    monkeypatch.setattr(sys, "argv", [script])
    assert called.name.__wrapped__() == name


def test_help_has_its_panels_and_fits_80_columns() -> None:
    text = command("--help").stdout
    for panel in ("Model", "Workers", "Routing", "Disaggregation", "HTTP", "Interface"):
        assert f"─ {panel} ─" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text, "give options a short metavar"


def test_help_has_a_short_name() -> None:
    assert command("-h").stdout == command("--help").stdout
    assert command("config", "show", "-h").stdout == command("config", "show", "--help").stdout


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_help_of_every_command_fits_80_columns(name: str) -> None:
    done = command(name, "--help")
    assert done.returncode == 0
    assert f"dynamo-llm {name}" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout, "give options a short metavar"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((), "--model is missing; dynamo-llm demo is"),
        (("--model", "tiny", "--json"), "--json works only with --dry-run"),
        (("--model", "tiny", "--workers", "2", "--kv-cost", "shares"), "only with --router kv"),
        (("--kv-cost", "old"), "'old' is not one of 'time', 'blocks', 'shares'"),
        (("--model", "tiny", "--router", "kx"), "'kx' is not one of 'none', 'random'"),
        (("--http-port", "x"), "error: --http-port takes a whole number from 0 to 65535; not 'x'."),
        (("--http-port=-1",), "--http-port takes a whole number from 0 to 65535; not '-1'."),
        (("--block-size", "0"), "--block-size takes a whole number of at least 1; not '0'."),
        (("--block-size=1000000001",), "takes a whole number from 1 to 1000000000; not '10000"),
        (("--speedup", "nan"), "--speedup takes a number of at least 0.001; not 'nan'."),
        (("--model", "tiny", "--max-num-seq", "2"), "Did you mean --max-num-seqs?"),
        (("--model", "tiny", "--worker", "2"), "Did you mean --workers?"),
        (("--model", "tiny", "stray"), "'stray' is not a value of any option; give a model"),
        (("--model", "tiny", "\u2014workers", "2"), "begins with a long dash; write --workers."),
        (("\u2013\u2013model", "tiny"), "begins with a long dash; write --model."),
        (("--model",), "requires an argument"),
        (("stray", "--model", "tiny"), "no command 'stray'"),
        (("serve",), "serving needs no command: dynamo-llm --model NAME"),
        (("serve", "--model", "tiny"), "serving needs no command: dynamo-llm --model tiny"),
        (("serve", "--workers", "2"), "no command: dynamo-llm --model NAME --workers 2"),
        (("serve", "demo", "--workers", "2"), "no command: dynamo-llm demo --workers 2"),
        (("run", "in=http", "out=vllm", "acme/m"), "needs no command: dynamo-llm acme/m"),
        (("in=http", "out=vllm", "acme/m"), "serving needs no command: dynamo-llm acme/m"),
        (("tests",), "a folder is given with --model: dynamo-llm --model tests"),
        (("tiny", "--model", "demo"), "two models are given: tiny, and the one of --model"),
        (("tiny", "--model=demo"), "two models are given: tiny, and the one of --model"),
        (("version",), "dynamo-llm --version"),
        (("help", "doctr"), "Did you mean doctor?"),
        (("-m", "tiny"), "Did you mean --model?"),
        (("doctr",), "Did you mean doctor?"),
        (("config", "shw"), "Did you mean 'show'?"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(args: tuple[str, ...], says: str) -> None:
    done = command(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("dynamo-llm: error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_a_folder_without_a_model_is_told_before_anything_starts(
    tmp_path: os.PathLike[str],
) -> None:
    done = command("--model", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "config.json" in done.stderr


def test_engine_options_pass_in_both_forms() -> None:
    args = plan("--max-num-seqs=32", "--seed", "7", "--enforce-eager", "--workers", "2")
    assert args["engine_args"] == [
        *("--scheduling-policy", "priority"),
        *("--max-num-seqs=32", "--seed", "7", "--enforce-eager"),
    ]


def test_the_plan_shows_processes_and_links() -> None:
    shown = plan("--workers", "2", "--processors", "2")
    assert [process["name"] for process in shown["processes"]] == [
        *("zygote", "frontend", "router", "worker 0", "worker 1", "processor 0", "processor 1"),
    ]
    joined = {(link["from"], link["to"]) for link in shown["links"]}
    assert {("frontend", "processor 1"), ("processor 0", "worker 1")} <= joined
    assert ("processor 1", "router") in joined
    assert len(joined) == len(shown["links"]) == 13


def test_the_plan_as_tables() -> None:
    text = command("--model", "tiny", "--dry-run", "--workers", "2").stdout
    assert "worker 1" in text
    assert "forked from the zygote" in text
    assert "engine arguments: --scheduling-policy priority --enforce-eager" in text


def test_keys_come_from_the_environment_too() -> None:
    done = command(
        *("--model", "tiny", "--dry-run", "--json", "--host", "0.0.0.0"),
        DYNAMO_LLM_API_KEY="a,b",
    )
    assert done.returncode == 0
    assert "a,b" not in done.stdout


@pytest.mark.parametrize(
    ("args", "says", "code"),
    [
        (("--once", "--json"), "choose one of --once, --json, --watch and --web", 2),
        (("--url", "ftp://h"), "--url is the address of a server like http://localhost:8181", 2),
        (("--url", "foo:bar"), "--url is the address of a server", 2),
        (("--url", ""), "--url is the address of a server", 2),
        (("--url", "http://[::1"), "--url is the address of a server", 2),
        (("--interval", "0.1"), "--interval takes a number of at least 0.25; not '0.1'.", 2),
        ((), "top needs a terminal; without one use --once, --json or --watch", 2),
        (("--once", "--url", "127.0.0.1:1"), "no server at http://127.0.0.1:1: connection", 1),
        (("--watch", "--url", "127.0.0.1:1"), "no server at http://127.0.0.1:1: connection", 1),
        (("--web", "--web-host", "192.0.2.1"), "cannot listen on 192.0.2.1:8182", 1),
    ],
)
def test_mistakes_with_top_are_one_line(args: tuple[str, ...], says: str, code: int) -> None:
    done = command("top", *args)
    assert done.returncode == code
    assert done.stderr.startswith("dynamo-llm: error: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_a_dashboard_without_a_terminal_is_told() -> None:
    done = command("--model", "tiny", "--ui", "dashboard")
    assert done.returncode == 2
    assert "--ui dashboard needs a terminal" in done.stderr


def test_in_a_json_log_the_failure_is_an_object_too() -> None:
    done = command("--model", "/nowhere/at/all", "--log-format", "json", "--http-port", "0")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert (told["level"], told["process"]) == ("ERROR", "dynamo-llm")
    assert "/nowhere/at/all" in told["message"]


def test_json_lines_do_not_go_with_the_dashboard() -> None:
    done = command("--model", "tiny", "--log-format", "json", "--ui", "dashboard")
    assert done.returncode == 2
    assert "--log-format json goes with --ui plain" in done.stderr


def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk or too many open files are not bugs, so there is no traceback."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(launch, "show_plan", full)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["dynamo-llm", "--model", "tiny", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        app.run()
    assert ended.value.code == 1
    said = capfd.readouterr().err
    assert said == "dynamo-llm: error: Too many open files; raise the limit: ulimit -n 65536.\n"
