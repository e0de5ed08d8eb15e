"""Settings from a file and from the environment, and `dynamo-llm config`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from dynamo_cli.cli import app, settings, vllm_environment
from dynamo_cli.cli.configure import template
from dynamo_cli.errors import UsageError
from tests.cli.test_command import command

SERVICES = {
    settings.PREFIX + name: value
    for service in ("", "FRONTEND_", "HTTP_")
    for name, value in {
        f"{service}SERVICE_HOST": "10.0.0.7",
        f"{service}SERVICE_PORT": "8181",
        f"{service}SERVICE_PORT_HTTP": "8181",
        f"{service}PORT": "tcp://10.0.0.7:8181",
        f"{service}PORT_8181_TCP": "tcp://10.0.0.7:8181",
        f"{service}PORT_8181_TCP_PROTO": "tcp",
        f"{service}PORT_8181_TCP_PORT": "8181",
        f"{service}PORT_8181_TCP_ADDR": "fd00::7",
        f"{service}PORT_53_UDP": "udp://[fd00::7]:53",
    }.items()
}
"""Variables that Kubernetes sets for services dynamo-llm, dynamo-llm-frontend and -http."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in settings.os.environ if name.startswith(settings.PREFIX)]:
        monkeypatch.delenv(name)


def read(file: Path, text: str, *args: str) -> typer.Context:
    file.write_text(text)
    return app.parse(["--config", str(file), *args])


def shown(*args: str, **environment: str) -> dict[str, dict[str, Any]]:
    done = command("config", "show", "--json", *args, **environment)
    assert done.returncode == 0, done.stderr
    return {row.pop("key"): row for row in json.loads(done.stdout)}


def test_the_command_line_comes_before_the_environment_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'workers = 2\nprocessors = 2\nhttp-port = 2\nui = "none"\n'
    monkeypatch.setenv("DYNAMO_LLM_PROCESSORS", "3")
    monkeypatch.setenv("DYNAMO_LLM_HTTP_PORT", "3")
    context = read(file, text, "--http-port", "4")
    typed = app.typed_of(context)
    assert (typed.workers, typed.processors, typed.http_port) == ("2", "3", 4)
    assert context.params["ui"] == "none"
    origins = {
        name: settings.origin_of(context, name)
        for name in ("workers", "processors", "http_port", "host")
    }
    assert origins == {
        "workers": settings.Origin("file", str(file)),
        "processors": settings.Origin("environment", "DYNAMO_LLM_PROCESSORS"),
        "http_port": settings.Origin("command line"),
        "host": settings.Origin("default"),
    }


def test_the_former_name_of_a_cost_is_taken_and_shown_nowhere(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = read(file, "", "--kv-cost", "ancestor")
    written = read(file, 'kv-cost = "ancestor"\n')
    monkeypatch.setenv("DYNAMO_LLM_KV_COST", "ancestor")
    exported = read(file, "")
    assert {app.typed_of(context).kv_cost for context in (typed, written, exported)} == {"shares"}
    text = command("--help").stdout + command("config", "init", "--help").stdout
    assert "shares of prompt" in " ".join(text.replace("│", " ").split())
    assert "ancestor" not in text


def test_the_same_of_engine_options(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "[engine]\nseed = 1\nmax-num-seqs = 1\nmax-num-batched-tokens = 1\n"
    text += "compilation-config = { mode = 0 }\nenable-prefix-caching = false\n"
    monkeypatch.setenv("DYNAMO_LLM_ENGINE_ARGS", "--seed 2 -cc.mode 1 --max-num-seqs=2")
    context = read(file, text, "--max_num_seqs", "3")
    assert settings.engine_args(context) == (
        *("--max-num-batched-tokens=1", "--compilation-config", '{"mode": 0}'),
        *("--no-enable-prefix-caching", "--seed", "2", "-cc.mode", "1"),
        *("--max-num-seqs", "3"),
    )


def test_a_whole_object_replaces_its_fields(file: Path) -> None:
    context = read(file, "[engine]\ncompilation-config.mode = 0\n", "-cc", "{}")
    assert settings.engine_args(context) == ("-cc", "{}")


def test_switches_can_be_taken_back(file: Path) -> None:
    assert app.typed_of(read(file, "debug-headers = true")).debug_headers
    assert not app.typed_of(read(file, "debug-headers = true", "--no-debug-headers")).debug_headers


@pytest.mark.parametrize(
    ("text", "keys"),
    [('api-key = "a"', ["a"]), ('api-key = ["a", "b"]', ["a", "b"]), ("", [])],
)
def test_lists_in_the_file(file: Path, text: str, keys: list[str]) -> None:
    assert list(app.typed_of(read(file, text)).api_keys) == keys


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workes = 2", "settings.toml: there is no setting workes. Did you mean workers?"),
        ("xyzzy = 2", "settings.toml: there is no setting xyzzy.$"),
        ("max-num-seqs = 2", r"max-num-seqs is vLLM's; put it under \[engine\]"),
        ("port = 2", "settings.toml: port is not a setting here: use --http-port"),
        ("[engine]\nmax-num-seq = 2", "settings.toml: no option --max-num-seq.*--max-num-seqs?"),
        ("[engine]\nseed = false", r"\[engine\] seed cannot be false"),
        ("[engine]\ntensor-parallel-size = 2", "settings.toml: .*use --worker-tp"),
        ("[engine]\nmax-model-len = 9", r"max-model-len belongs above \[engine\]"),
        ("engine = 1", "engine is a table"),
        ("http-port = 'x'", "settings.toml: http-port takes a whole number from 0 to"),
        ("http-port = true", "http-port: it takes a word or a number, not true"),
        ("http-port = 99999", "http-port takes a whole number from 0 to 65535; not '99999'."),
        ("workers = [1]", r"workers: it takes a word or a number, not \[1\]"),
        ("debug-headers = 1", "debug-headers: it is a switch, true or false, not 1"),
        ("router = 'kx'", "settings.toml: router: 'kx' is not one of 'none', 'random'"),
        ("dry-run = true", "no setting dry-run"),
        ("a = ", "settings.toml is not TOML"),
        ("[engine]\noverride-generation-config = {a = 2020-01-01}", "holds a date or a time; put"),
        ("[engine]\nlora-modules = [2020-01-01]", "lora-modules holds a date or a time"),
    ],
)
def test_mistakes_in_the_file_name_file_and_key(file: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        read(file, text)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("WORKES", "2", "DYNAMO_LLM_WORKES is not a setting. Did you mean DYNAMO_LLM_WORKERS?"),
        ("PORT", "2", "Did you mean DYNAMO_LLM_HTTP_PORT?"),
        ("HTTP_PORT", "x", "DYNAMO_LLM_HTTP_PORT takes a whole number from 0 to 65535; not 'x'."),
        ("REUSE_GPUS", "perhaps", "DYNAMO_LLM_REUSE_GPUS takes true or false; not 'perhaps'."),
        (
            "ENGINE_ARGS",
            "--sead 1",
            "DYNAMO_LLM_ENGINE_ARGS: no option --sead.*Did you mean --seed",
        ),
        (
            "ENGINE_ARGS",
            "--block_size=9",
            "--block-size has a variable of its own: DYNAMO_LLM_BLOCK_SIZE",
        ),
        ("ENGINE_ARGS", "'", "DYNAMO_LLM_ENGINE_ARGS: No closing quotation"),
        ("CONFIG", "/nowhere.toml", "/nowhere.toml cannot be read: no such file"),
    ],
)
def test_mistakes_in_the_environment_name_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(settings.PREFIX + name, value)
    with pytest.raises(UsageError, match=says):
        app.parse([])


def test_services_of_kubernetes_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    linked = {"NAME": "/web/dynamo-llm", "ENV_API_KEY": "secret"}
    named = {settings.PREFIX + name: value for name, value in linked.items()}
    for name, value in (SERVICES | named).items():
        monkeypatch.setenv(name, value)
    context = app.parse([])
    assert not context.obj.values
    assert settings.origin_of(context, "http_port") == settings.Origin("default")
    monkeypatch.setenv("DYNAMO_LLM_HTTP_PORT", "8282")
    monkeypatch.setenv("DYNAMO_LLM_SERVED_MODEL_NAME", "/a/b")
    assert app.parse([]).obj.values == {"http_port": "8282", "served_names": ["/a/b"]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "8181"),
        ("SERVICE_HOST", "localhost"),
        ("SERVICE_PORT", "http"),
        ("PORT_8181_TCP_PROTO", "http"),
        ("HTTP_PROT", "tcp://10.0.0.7:8181"),
        ("NAME", "tiny"),
    ],
)
def test_what_only_looks_like_a_service_is_a_mistake(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(settings.PREFIX + name, value)
    with pytest.raises(UsageError, match=f"DYNAMO_LLM_{name} is not a setting"):
        app.parse([])


def test_every_setting_has_a_key_and_a_variable() -> None:
    keys = settings.keys_of(app.command())
    parameters = {param.name for param in app.command().params}
    actions = {"version", "dry_run", "as_json", "config_file"}
    assert {param.name for param in keys.values()} == parameters - actions
    assert len({settings.variable_of(key) for key in keys}) == len(keys)


def test_show_says_where_each_value_came_from(file: Path) -> None:
    file.write_text('model = "tiny"\nrecord = "a.jsonl"\n[engine]\nhf-token = "secret"\n')
    rows = shown("--config", str(file), "--workers", "2", DYNAMO_LLM_API_KEY="secret")
    assert rows["model"] == {"value": "tiny", "from": "file", "where": str(file)}
    assert rows["workers"] == {"value": "2", "from": "command line", "where": ""}
    assert rows["http-port"] == {"value": 8181, "from": "default", "where": ""}
    assert rows["record"] == {"value": "a.jsonl", "from": "file", "where": str(file)}
    assert rows["api-key"]["where"] == "DYNAMO_LLM_API_KEY"
    assert "secret" not in json.dumps(rows)
    table = command("config", "show", "--config", str(file)).stdout
    assert re.search(rf"^model +tiny +file\s+{re.escape(str(file)[:20])}", table, re.MULTILINE)
    assert "secret" not in table


def test_vllms_key_is_a_key_unless_the_command_line_has_one(file: Path) -> None:
    vllm = {"VLLM_API_KEY": "theirs"}

    def keys(*args: str, **environment: str) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            return list(app.typed_of(app.parse(["--model", "tiny", *args])).api_keys or ())

    assert keys() == []
    assert keys(**vllm) == ["theirs"]
    assert keys(**vllm, DYNAMO_LLM_API_KEY="a,b") == ["a", "b", "theirs"]
    assert keys("--api-key", "c", **vllm) == ["c"]
    file.write_text('api-key = "filed"\n')
    assert keys("--config", str(file), **vllm) == ["filed", "theirs"]
    rows = shown(VLLM_API_KEY="theirs")
    assert rows["api-key"]["where"] == "VLLM_API_KEY"
    assert "theirs" not in json.dumps(rows)


def test_the_file_comes_from_a_variable_too(file: Path) -> None:
    file.write_text("workers = 7\n")
    assert shown(DYNAMO_LLM_CONFIG=str(file))["workers"]["value"] == "7"


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_mistake_does_not_keep_from_help(option: str) -> None:
    assert command(option, DYNAMO_LLM_WORKES="2").returncode == 0


def test_what_is_started_is_what_the_file_says(file: Path) -> None:
    file.write_text('model = "tiny"\nworkers = 2\nrouter = "kv"\n[engine]\nseed = 5\n')
    done = command("--config", str(file), "--dry-run", "--json", DYNAMO_LLM_PROCESSORS="3")
    plan = json.loads(done.stdout)
    assert (plan["model"], plan["router"]) == ("tiny", "kv")
    names = [process["name"] for process in plan["processes"]]
    assert {"worker 1", "processor 2"} <= set(names)
    assert "--seed=5" in plan["engine_args"]


def test_mistakes_are_one_line(file: Path) -> None:
    file.write_text("workes = 7\n")
    for args in (("config", "show"), ("--model", "tiny", "--dry-run")):
        done = command(*args, "--config", str(file))
        assert done.returncode == 2
        assert done.stderr.startswith("dynamo-llm: error: ")
        assert done.stderr.count("\n") == 1


def test_a_file_that_init_writes_is_all_comments_and_becomes_valid_without_them(
    file: Path,
) -> None:
    assert command("config", "init", str(file)).returncode == 0
    context = app.parse(["--config", str(file)])
    assert not context.obj.values
    text = re.sub(r"^# (?=[a-z-]+ = )", "", template(file), flags=re.MULTILINE)
    context = read(file, text)
    keys = settings.keys_of(context.command)
    assert set(context.obj.values) == {param.name for param in keys.values()}
    assert len(context.obj.engine) == 4


def test_init_can_set_the_model_so_that_the_file_alone_serves(file: Path) -> None:
    assert command("config", "init", "--model", 'org/"name"', str(file)).returncode == 0
    context = app.parse(["--config", str(file)])
    assert context.obj.values.keys() == {"model"}
    assert context.params["model"] == 'org/"name"'


def test_init_overwrites_only_by_force(file: Path) -> None:
    file.write_text("mine")
    done = command("config", "init", str(file))
    assert done.returncode == 2
    assert "--force overwrites it" in done.stderr
    assert file.read_text() == "mine"
    assert command("config", "init", "--force", str(file)).returncode == 0
    assert "[engine]" in file.read_text()


@pytest.mark.parametrize(("text", "seconds"), [("", 75), ("5", 5), ("0.5", 0.5)])
def test_vllms_keep_alive_is_kept(text: str, seconds: float) -> None:
    assert vllm_environment.keepalive_s({"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": text}) == seconds


@pytest.mark.parametrize("text", ["x", "0", "-1", "inf", "nan"])
def test_a_keep_alive_that_cannot_be_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="VLLM_HTTP_TIMEOUT_KEEP_ALIVE is a number of seconds"):
        vllm_environment.keepalive_s({"VLLM_HTTP_TIMEOUT_KEEP_ALIVE": text})
