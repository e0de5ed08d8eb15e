"""The completion scripts, in real shells."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamo_cli.cli import commands
from dynamo_cli.cli.completions import FILES, Shell, known_words, script
from dynamo_cli.completion import words
from dynamo_cli.engines.vllm import versions
from dynamo_cli.engines.vllm.options import declared
from tests.cli.test_command import command
from tests.completion.terminal import Fish, Terminal

FOLDER = Path(__file__).parents[2] / "completions"
SLOW_S = 10.0
"""Far longer than it takes; the bound only shows that nothing heavy is started."""


@pytest.fixture(scope="module", params=list(Shell))
def shell(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Terminal | Fish]:
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed here; apt-get install {name}")
    home = tmp_path_factory.mktemp(name)
    hub = home / ".cache" / "huggingface" / "hub"
    for folder in ("models--acme--Big-Model--v2", "models--small", "datasets--acme--data"):
        (hub / folder).mkdir(parents=True)
    (home / "folder").mkdir()
    (home / "file.toml").touch()
    file = FOLDER / FILES[request.param]
    opened = Fish(file, home) if request.param is Shell.FISH else Terminal(name, file, home)
    yield opened
    opened.close()


def offered(shell: Terminal | Fish, line: str) -> set[str]:
    """The words that a shell offers for the last word of a line."""
    given = line.split()[: None if line.endswith(" ") else -1]
    started = time.monotonic()
    found = shell.complete(line)
    assert time.monotonic() - started < SLOW_S
    if isinstance(shell, Terminal):
        assert found[: len(given)] == given
        found = found[len(given) :]
    flag, equals, _ = line.rpartition(" ")[2].partition("=")
    return {word.removeprefix(flag + equals if equals else "").removesuffix("/") for word in found}


of_the_files = pytest.mark.skipif(
    versions.release() != "0.32", reason="completions/ has the options of vLLM 0.32"
)
"""Whoever has another release gets its options from ``dynamo-llm completions``."""


@of_the_files
@pytest.mark.parametrize("shell_name", list(Shell))
def test_the_files_are_up_to_date(shell_name: Shell) -> None:
    assert script(shell_name) == (FOLDER / FILES[shell_name]).read_text(), (
        "the command line has changed: run `make completions` and commit completions/"
    )


@pytest.mark.parametrize(
    ("line", "gives"),
    [
        ("--rout", {"--router"}),
        ("--router ", {"none", "random", "round-robin", "least-loaded", "kv"}),
        ("--router r", {"random", "round-robin"}),
        ("--router=r", {"random", "round-robin"}),
        ("--model tiny --kv-cost ", {"time", "blocks", "shares"}),
        ("--model tiny --conditional-", {"--conditional-disagg"}),
        ("--no-debug-h", {"--no-debug-headers"}),
        ("--model ", {"demo", "tiny", "acme/Big-Model--v2", "small"}),
        ("--model a", {"acme/Big-Model--v2"}),
        ("--model ./f", {"./folder"}),
        ("--config f", {"folder", "file.toml"}),
        ("--download-dir f", {"folder"}),
        ("--http-port ", set()),
        ("--max-num-se", {"--max-num-seqs"}),
        ("--dtype ", {"auto", "bfloat16", "float", "float16", "float32", "half"}),
        ("--model tiny --dtype=fl", {"float", "float16", "float32"}),
        ("--no-enable-prefix-cach", {"--no-enable-prefix-caching"}),
        ("conf", {"config"}),
        ("d", {"doctor", "demo"}),
        ("a", {"acme/Big-Model--v2"}),
        ("./f", {"./folder"}),
        ("demo --rout", {"--router"}),
        ("demo --router r", {"random", "round-robin"}),
        ("config ", {"show", "init"}),
        ("config sh", {"show"}),
        ("config show --router k", {"kv"}),
        ("config show --max-num-se", {"--max-num-seqs"}),
        ("config init --f", {"--force"}),
        ("config init f", {"folder", "file.toml"}),
        ("completions ", {"bash", "zsh", "fish"}),
        ("completions --inst", {"--install"}),
        ("replay --profile gpu-", {"gpu-8b", "gpu-70b"}),
        ("replay --profile f", {"folder", "file.toml"}),
        ("replay f", {"folder", "file.toml"}),
        ("replay --plot f", {"folder", "file.toml"}),
    ],
)
def test_what_is_offered(shell: Terminal | Fish, line: str, gives: set[str]) -> None:
    found = offered(shell, line)
    if line == "--model ":  # bash offers folders only once a path has begun
        found.discard("folder")
    assert found == gives


@pytest.mark.parametrize("refused", ["--tensor-par", "--port", "--uvicorn", "--ssl", "--data-par"])
def test_what_would_be_refused_is_not_offered(shell: Terminal | Fish, refused: str) -> None:
    assert not offered(shell, refused) - {refused}


@of_the_files
def test_every_command_and_every_option_is_offered(shell: Terminal | Fish) -> None:
    known = known_words()
    models = {"demo", "tiny", "acme/Big-Model--v2", "small"}
    assert offered(shell, "") - {"folder"} == {*commands.COMMANDS, *models}
    expected = {
        flag for one in (*known.serving.options, *known.engine) for flag in one.flags if flag
    }
    # A flag that is the beginning of others is offered alone while it is typed.
    assert offered(shell, "--") == expected
    for one in known.serving.walk():
        if one.path and not one.serves:
            line = f"{' '.join(one.path)} --"
            assert offered(shell, line) == {flag for opt in one.options for flag in opt.flags}


def test_what_the_declaration_does_not_say_is_said_of_options_that_exist() -> None:
    known = {flag for option in declared.passed_on() for flag in option.flags} | {
        flag for option in known_words().serving.options for flag in option.flags
    }
    assert {*words.MODELS, *words.FILES, *words.FOLDERS} <= known


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("bash", "data/bash-completion/completions/dynamo-llm"),
        ("zsh", "data/zsh/site-functions/_dynamo-llm"),
        ("fish", "config/fish/completions/dynamo-llm.fish"),
    ],
)
def test_installing_twice_says_so(tmp_path: Path, name: str, place: str) -> None:
    folders = {
        "XDG_DATA_HOME": str(tmp_path / "data"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "BASH_COMPLETION_USER_DIR": "",
    }
    first = command("completions", name, "--install", **folders)
    file = tmp_path / place
    assert first.stdout.startswith(f"{file} is written.")
    assert file.read_text() == command("completions", name).stdout == script(Shell(name))
    second = command("completions", name, "--install", **folders)
    assert second.stdout.startswith(f"{file} is up to date.")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "fish").touch()
    done = command("completions", "fish", "--install", XDG_CONFIG_HOME=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
