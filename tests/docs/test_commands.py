"""Every command that the documentation shows is run, or stands below with the reason why not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.commands import FENCE, PAGES, ROOT, Command, blocks, commands
from tests.preflight.folders import safetensors
from tests.reference.metrics import families
from tests.support import adapter
from tests.support.preloaded import ENGINES, LIGHT
from tests.support.server import COMMAND, SMALL, Server, free_port

BIN = Path(sys.executable).parent
SHOWN_URL, SHOWN_KEY, SHOWN_ADAPTERS = "localhost:8181", "KEY", "/adapters/"

NOT_RUN = {
    r"make (serve|test)$": "makes an environment, or runs all of this",
    r"\.venv/bin/(ruff|mypy|pytest)\b": "is what `make test` does",
    r"\.venv/bin/python -m tests\.benchmarks\.": "takes minutes",
    r"dynamo-llm .*--worker-tp 2$": "needs GPUs",
    r"(pip download|python -m zipfile) ": "fetches another release of vLLM",
    r"\.venv/bin/python -m tests\.seam\.check /": "needs the sources of another release of vLLM",
    r"\.venv/bin/python -m dynamo_cli\.": "writes the file of the options of vLLM",
    r"journalctl\b": "needs systemd and its journal",
    r"docker compose\b": "needs Docker and images of others",
    r"kubectl\b": "needs a cluster",
    r"pip install ": "would change the environment of the tests",
    r"ray start ": "makes a cluster that other machines can reach",
    r"dynamo-llm .*--ray ": "needs a cluster",
    r"apt-get ": "fetches packages and installs them",
    r"dynamo-llm chat$": "asks in a terminal, and would start a server",
}
"""Commands by what they begin with, and why no test runs them."""

OURS = re.compile(r"(\w+=\S+ )*((\.venv/bin/)?dynamo-llm|container/\w+\.sh|curl|printf|gzip|zcat) ")
"""What the tests may run."""

STARTS = re.compile(r"(\w+=\S+ )*dynamo-llm (-|demo\b)")
"""Serves; the same with --dry-run shows that it could."""

DRY = re.compile(r"--(dry-run|version|help)\b")
ASKS = re.compile(r"curl |dynamo-llm (top|bench) ")
"""Needs a server."""

PLAIN = re.compile(r"dynamo-llm [-\w ./:=,]+")
"""Nothing in it is for a shell."""

CHECKS = re.compile(r"dynamo-llm doctor ")
"""Imports vLLM, and looks whether the port is free."""


RECORD = "".join(
    json.dumps(
        {
            "timestamp": 50 * number,
            "input_length": 300,
            "output_length": 20,
            "hash_ids": [1, 2 + number % 3],
            "block_size": 128,
        }
    )
    + "\n"
    for number in range(30)
)


def all_commands() -> list[Command]:
    """Each text once."""
    found = {
        command.text: command
        for page in PAGES
        for block in blocks(page)
        for command in commands(block)
    }
    return list(found.values())


def reason_not_to_run(command: Command) -> str:
    return next((why for shown, why in NOT_RUN.items() if re.match(shown, command.text)), "")


RUN = [
    command
    for command in all_commands()
    if not reason_not_to_run(command) and OURS.match(f"{command.text} ")
]
OFFLINE = [one for one in RUN if not ASKS.match(one.text) and not CHECKS.match(one.text)]
ONLINE = [one for one in RUN if ASKS.match(one.text)]
CHECKING = [one for one in RUN if CHECKS.match(one.text)]
LONGEST_CHECKS = [
    one for one in CHECKING if not any(other.text.startswith(f"{one.text} ") for other in CHECKING)
]
"""Each imports vLLM and starts an engine; one with fewer options does nothing that these do not."""


def where(command: Command) -> str:
    return command.where


def as_run(command: Command) -> str:
    """The same command where nothing shall stay, be built or be served."""
    text = command.text.replace("container/", f"{ROOT}/container/").replace(".venv/bin/", "")
    if STARTS.match(text) and not DRY.search(text):
        text = text.replace(f"={SHOWN_ADAPTERS}", "=./adapters/") + " --dry-run"
    return re.sub(r"(/container/\w+\.sh)", r"\1 --engine docker --dry-run", text)


def test_other_programs_are_not_run() -> None:
    known = [*map(where, RUN)]
    others = [one for one in all_commands() if not reason_not_to_run(one)]
    assert [where(one) for one in others if where(one) not in known] == [], "say why not, above"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all of them run in turn: some write what the next one reads."""
    home: Path = tmp_path_factory.mktemp("home")
    home.joinpath("requests.jsonl").write_text(RECORD)  # as --record leaves it
    adapter = home / "adapters" / "sql"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(safetensors())
    return home


def run(text: str, folder: Path) -> str:
    """What a shell prints; a plain command of ours needs no shell, and is forked."""
    # What a person has: the models that are there, and a terminal of some width.
    environment = {
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache")),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": "100",
    }
    if PLAIN.fullmatch(text):
        _, *words = text.split(" ")
        source = ENGINES if CHECKS.match(text) else LIGHT
        done = source.run([COMMAND, *words], environment, timeout_s=120, folder=folder)
    else:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            env=environment,
        )
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_there_are_commands_of_every_kind() -> None:
    assert OFFLINE
    assert ONLINE
    assert CHECKING


@pytest.mark.parametrize("shown", NOT_RUN)
def test_the_list_of_what_is_not_run_is_true(shown: str) -> None:
    assert any(re.match(shown, command.text) for command in all_commands())


def test_commands_are_fenced_as_shell() -> None:
    """Else they would not be found."""
    for page in PAGES:
        for fenced in re.findall(f"^{FENCE}\n(.*?)^{FENCE}$", page.read_text(), re.M | re.S):
            assert not re.match(r"(dynamo-llm|curl|container/) ?", fenced), page.name


@pytest.mark.parametrize("command", OFFLINE, ids=where)
def test_it_works(command: Command, folder: Path) -> None:
    run(as_run(command), folder)


@pytest.mark.engine
@pytest.mark.parametrize("command", LONGEST_CHECKS, ids=where)
def test_the_check_passes(command: Command, folder: Path) -> None:
    """With a port that is taken: `tests.cli.test_doctor`."""
    shown = run(f"{command.text} --http-port {free_port()}", folder)
    for check in ("torch", "transformers", "vllm", "first token", "engine options"):
        assert re.search(rf"✓ ok +{check} ", shown), shown


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    """One that has all of what pages describe, under the name that they use."""
    options = ["--served-model-name", "demo", "--router", "kv", "--enable-lora"]
    options += ["--prefill-workers", "1", "--conditional-disagg", "--enable-admin"]
    folder.joinpath("poet").mkdir()
    adapter.write(folder / "poet")
    with Server(*SMALL, *options, "--api-key", SHOWN_KEY) as running:
        yield running


@pytest.mark.engine
@pytest.mark.parametrize("command", ONLINE, ids=where)
def test_a_server_answers(command: Command, server: Server, folder: Path) -> None:
    text = command.text.replace(SHOWN_URL, f"127.0.0.1:{server.port}")
    text = text.replace(SHOWN_ADAPTERS, f"{folder}/")
    if text.startswith("curl "):
        status = folder / "status"
        told = f"curl --silent --show-error --write-out '%{{stderr}}%{{http_code}}' 2>{status} "
        if SHOWN_KEY not in text:
            told += f"-H 'Authorization: Bearer {SHOWN_KEY}' "
        run(text.replace("curl ", told, 1), folder)
        assert status.read_text() in ("200", "202"), command.text
    else:
        run(f"DYNAMO_LLM_API_KEY={SHOWN_KEY} {text}", folder)


NOT_HERE = ("dynamo_llm_gpu_", "dynamo_llm_disk_cache_", "dynamo_llm_node_", "dynamo_llm_relay_")
ELSEWHERE = (*NOT_HERE, "dynamo_llm_record_")
"""Metrics that are there with GPUs, with --disk-cache, with --ray, or with --record."""


def named_metrics() -> set[str]:
    pages = [page for page in PAGES if not page.name.startswith("reference-")]  # made from the code
    return {name for page in pages for name in re.findall(r"\bdynamo_llm_\w+", page.read_text())}


@pytest.mark.engine
def test_metrics_have_the_names_that_pages_give(server: Server) -> None:
    exported = str(server.get("/metrics")[1])
    here = {name for name in named_metrics() if not name.startswith(ELSEWHERE)}
    assert here
    assert not [name for name in here if f"# HELP {name}" not in exported]


def test_metrics_of_gpus_disks_and_nodes_have_the_names_that_pages_give() -> None:
    known = {family.name for family in families()}
    named = {name for name in named_metrics() if name.startswith(NOT_HERE)}
    assert named
    assert not [name for name in named if not any(one.startswith(name) for one in known)]
