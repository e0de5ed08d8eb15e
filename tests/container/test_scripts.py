"""build.sh and run.sh: the commands that they would run, and the input that they refuse."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dynamo_cli import __version__
from tests.cli.test_settings import SERVICES

ROOT = Path(__file__).parents[2]
CONTAINER = ROOT / "container"
SCRIPTS = ("build.sh", "engine.sh", "run.sh")
ALWAYS = (
    "run --rm --stop-timeout 60 --cap-drop ALL --security-opt no-new-privileges"
    " --publish 127.0.0.1:8181:8181 --volume dynamo-llm-cache:/cache"
)


def call(
    script: str, *args: str, path: Path | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a script with only `variables` set; `path` has the container engines."""
    return subprocess.run(
        [CONTAINER / script, *args],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": str(path or os.environ["PATH"]), **variables},
    )


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """A PATH with the tools that the scripts need, and without a container engine."""
    for tool in ("bash", "cat", "dirname", "env", "sed"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def dry_run(script: str, *args: str, **variables: str) -> list[str]:
    """The words of the command that the script prints."""
    done = call(script, "--dry-run", "--engine", "docker", *args, **variables)
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout)


@pytest.mark.parametrize(
    ("args", "becomes"),
    [
        ("", f"docker {ALWAYS} dynamo-llm:cpu"),
        ("-- --model tiny", f"docker {ALWAYS} dynamo-llm:cpu --model tiny"),
        ("-- doctor", f"docker {ALWAYS} dynamo-llm:cpu doctor"),
        ("--tag a/b:1", f"docker {ALWAYS} a/b:1"),
    ],
)
def test_what_run_runs(args: str, becomes: str) -> None:
    assert dry_run("run.sh", *args.split()) == becomes.split()


@pytest.mark.parametrize(
    ("args", "has"),
    [
        ("-it", "-it"),
        ("--detach --name llm", "--detach"),
        ("--detach --name llm", "--name llm"),
        ("--port 9000", "--publish 127.0.0.1:9000:9000 --env DYNAMO_LLM_HTTP_PORT=9000"),
        ("--port 80", "--publish 127.0.0.1:80:8181 --volume"),
        ("--address 0.0.0.0", "--publish 0.0.0.0:8181:8181"),
        ("--gpus all", "--gpus all dynamo-llm:cuda"),
        ("--gpus 0,2", '--gpus "device=0,2"'),
        ("--gpus 0,2 --engine podman", "--device nvidia.com/gpu=0 --device nvidia.com/gpu=2"),
        ("--gpus all --engine podman", "--device nvidia.com/gpu=all"),
        ("--shm-size 2g", "--shm-size 2g"),
        ("--memory 64g --cpus 8", "--memory 64g --cpus 8 --volume"),
        ("--cache mine", "--volume mine:/cache"),
        ("--cache ./tests", f"--volume {ROOT}/tests:/cache"),
        ("--cache ./tests", f"--user {os.getuid()}:{os.getgid()}"),
        ("--config pyproject.toml", f"--volume {ROOT}/pyproject.toml:/etc/dynamo-llm.toml:ro"),
        ("--config pyproject.toml", "--env DYNAMO_LLM_CONFIG=/etc/dynamo-llm.toml"),
        ("--models tests", f"--volume {ROOT}/tests:{ROOT}/tests:ro"),
    ],
)
def test_what_options_of_run_add(args: str, has: str) -> None:
    words = " ".join(dry_run("run.sh", *args.split()))
    in_order = has.split(" dynamo-llm:")
    assert in_order[0] in words
    assert words.endswith("dynamo-llm:" + in_order[-1]) or len(in_order) == 1


@pytest.mark.parametrize("uid", [0, 1000])
def test_a_folder_as_the_cache_belongs_to_who_runs_it(bin_folder: Path, uid: int) -> None:
    """Podman maps the users of others than root, and refuses to keep root's."""
    identity = bin_folder / "id"
    identity.write_text(f"#!/bin/sh\necho {uid}\n")
    identity.chmod(0o755)
    words = ["--dry-run", "--engine", "podman", "--cache", str(bin_folder)]
    done = call("run.sh", *words, path=bin_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert f" --user {uid}:{uid} " in done.stdout
    assert ("--userns keep-id" in done.stdout) == (uid != 0)


def test_run_hands_variables_on_by_name_only() -> None:
    words = dry_run(
        "run.sh",
        DYNAMO_LLM_API_KEY="secret",
        DYNAMO_LLM_ROUTER="kv",
        DYNAMO_LLM_HOST="10.0.0.1",
        DYNAMO_LLM_HTTP_PORT="1",
        VLLM_API_KEY="secret",
        HF_TOKEN="secret",
        HF_HOME="/home/somebody",
    )
    handed_on = [words[place + 1] for place, word in enumerate(words) if word == "--env"]
    assert handed_on == ["DYNAMO_LLM_API_KEY", "DYNAMO_LLM_ROUTER", "VLLM_API_KEY", "HF_TOKEN"]
    assert "secret" not in words


def test_run_keeps_what_kubernetes_tells_of_services_to_itself() -> None:
    words = dry_run("run.sh", DYNAMO_LLM_ROUTER="kv", **SERVICES)
    assert [word for word in words if "DYNAMO_LLM_" in word] == ["DYNAMO_LLM_ROUTER"]


def test_run_takes_the_file_of_settings_that_the_environment_names() -> None:
    words = dry_run("run.sh", DYNAMO_LLM_CONFIG=str(ROOT / "pyproject.toml"))
    assert f"{ROOT}/pyproject.toml:/etc/dynamo-llm.toml:ro" in words


@pytest.mark.parametrize(
    ("args", "has"),
    [
        ("--target cpu", "--tag dynamo-llm:cpu"),
        ("--target cuda", "--tag dynamo-llm:cuda --build-arg ENGINE=cuda"),
        ("--target cpu", "--build-arg ENGINE=cpu --build-arg TORCH_INDEX=https://"),
        ("--tag a/b:1", "--tag a/b:1"),
        ("--base a/b:1", "--build-arg BASE=a/b:1"),
        ("", f"--build-arg VERSION={__version__}"),
        ("--engine podman", "--format docker --ignorefile"),
    ],
)
def test_what_build_runs(args: str, has: str) -> None:
    words = dry_run("build.sh", *args.split())
    assert has in " ".join(words)
    assert words[1] == "build"
    assert words[-1] == str(ROOT)


def test_build_hands_the_indexes_of_pip_on_by_name_only() -> None:
    words = dry_run("build.sh", PIP_INDEX_URL="https://name:password@mirror.example/simple")
    assert words[words.index("PIP_INDEX_URL") - 1] == "--build-arg"
    assert not any("password" in word for word in words)


@pytest.mark.parametrize(
    ("script", "args", "says"),
    [
        ("run.sh", "--model tiny", "no option '--model'; options of dynamo-llm go behind --"),
        ("run.sh", "--port", "--port needs a value"),
        ("run.sh", "--memory", "--memory needs a value"),
        ("run.sh", "--port http", "--port is a number from 1 to 65535, not 'http'"),
        ("run.sh", "--port 70000", "--port is a number from 1 to 65535, not '70000'"),
        ("run.sh", "--gpus some", "--gpus is all or numbers like 0,1; not 'some'"),
        ("run.sh", "--models /no/such", "--models: there is no folder '/no/such'"),
        ("run.sh", "--cache /no/such", "--cache: there is no folder '/no/such'"),
        ("run.sh", "-- --model tiny --http-port 1", "--http-port is fixed inside; use --address"),
        ("run.sh", "--config no.toml", "--config: 'no.toml' cannot be read"),
        ("run.sh", "-- --config=a.toml", "--config goes before the --"),
        ("run.sh", "-- --host=1.2.3.4", "--host is fixed inside"),
        ("build.sh", "--target rocm", "--target is cpu or cuda, not 'rocm'"),
        ("build.sh", "--tag", "--tag needs a value"),
        ("build.sh", "--push", "no option '--push'; --help lists them"),
        ("build.sh", "--engine lxc", "--engine (or CONTAINER_ENGINE) is docker or podman"),
    ],
)
def test_what_is_refused(script: str, args: str, says: str) -> None:
    done = call(script, "--dry-run", *args.split())
    assert done.returncode == 2
    assert not done.stdout
    assert done.stderr.startswith(f"{script}: error: ")
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


@pytest.mark.parametrize("script", ["build.sh", "run.sh"])
@pytest.mark.parametrize(("there", "chosen"), [("docker", "docker"), ("podman", "podman")])
def test_the_engine_is_the_one_that_is_there(
    bin_folder: Path, script: str, there: str, chosen: str
) -> None:
    engine = bin_folder / there
    engine.write_text('#!/usr/bin/env bash\necho "${0##*/} $1"\n')
    engine.chmod(0o755)
    done = call(script, path=bin_folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [chosen, script.removesuffix(".sh")]


@pytest.mark.parametrize("script", ["build.sh", "run.sh"])
def test_without_an_engine_it_says_so(bin_folder: Path, script: str) -> None:
    done = call(script, path=bin_folder)
    assert done.returncode == 2
    assert "there is no docker or podman here" in done.stderr
    named = call(script, path=bin_folder, CONTAINER_ENGINE="podman")
    assert "there is no podman here" in named.stderr


@pytest.mark.parametrize("script", ["build.sh", "run.sh"])
def test_help_names_every_option(script: str) -> None:
    done = call(script, "--help")
    assert done.returncode == 0
    options = re.findall(r"^ +(--[a-z-]+)[^)\n*]*\) .*;;$", (CONTAINER / script).read_text(), re.M)
    assert len(options) > 5
    for option in options:
        assert f"  {option} " in done.stdout, option


def test_shellcheck_finds_nothing() -> None:
    beside_python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shellcheck = shutil.which("shellcheck", path=beside_python)
    assert shellcheck, "the extra dev installs it"
    done = subprocess.run(
        [shellcheck, "--external-sources", *(str(CONTAINER / script) for script in SCRIPTS)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_build_says_that_docker_lacks_what_it_needs(tmp_path: Path) -> None:
    """Without BuildKit the build would stop in the middle, with a message about its syntax."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\n[ $1 != buildx ]\n")
    docker.chmod(0o755)
    for tool in ("dirname", "sed", "bash", "env", "git"):
        if (found := shutil.which(tool)) is not None:
            (tmp_path / tool).symlink_to(found)
    done = call("build.sh", "--target", "cpu", "--engine", "docker", path=tmp_path)
    assert done.returncode == 2
    assert "lacks BuildKit" in done.stderr
