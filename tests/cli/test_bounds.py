"""Options with numbers out of range, or with words that they do not take."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from dynamo_cli.cli import app, bad_value, commands, dry_run
from dynamo_cli.errors import UsageError
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.resolve import resolve
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.topology import MAX_MESSAGE_BYTES
from dynamo_cli.units import MIB
from tests.cli.test_command import command

CPU = Machine(cores=2, available_bytes=8192 * MIB)
HUGE = "9" * 30


def planned(*args: str) -> ServeConfig:
    return resolve(app.typed_of(app.parse(args)), CPU)


@pytest.mark.parametrize(
    "args",
    [
        f"--workers {HUGE}",
        "--workers 100000",
        "--workers \u0661",
        "--drain-timeout inf",
        "--drain-timeout nan",
        "--drain-timeout 1e300",
        "--prefill-workers 1 --prefill-alarm inf",
        "--engine mock --speedup inf",
        "--engine mock --speedup 1e308",
        "--router kv --kv-temperature inf",
        "--router kv --kv-overlap-weight inf",
        "--processors 100000",
        "--worker-tp 100000",
        f"--engine-threads {HUGE}",
        f"--max-body-bytes {HUGE}",
        f"--max-body-bytes {MAX_MESSAGE_BYTES}",
        f"--max-inflight {HUGE}",
        f"--prefill-workers {HUGE}",
        f"--prefill-workers 1 --prefill-tp {HUGE}",
        f"--prefill-workers 1 --max-local-prefill-length {HUGE}",
        f"--prefill-workers 1 --max-prefill-queue-size {HUGE}",
        f"--block-size {HUGE}",
        f"--host-cache {HUGE}",
        "--host-cache -1",
        "--host-cache \u0661GiB",
        f"--host-cache 1GiB --host-cache-min-tokens {HUGE}",
        "--host 256.1.1.1",
        "--host localhost:8000",
        "--host http://localhost",
        "--host ::zz",
        "--host=",
        "--api-key=",
        "--api-key ключ",
        "--served-model-name=",
        "--otlp-endpoint http://[::1",
        "--otlp-endpoint http://localhost:99999",
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made_of_it(args: str) -> None:
    with pytest.raises((UsageError, app.typer.TyperException)) as caught:
        planned("--model", "tiny", *args.split(" "))
    error = caught.value
    assert error.exit_code == 2
    says = error.message if isinstance(error, UsageError) else bad_value.explain(error)
    *_, option, value = args.replace("=", " ").split(" ")
    assert option in says
    assert value in says.replace("e+", "e") or option == "--api-key", "a key is not repeated"


def numbers() -> Iterator[tuple[Any, Any]]:
    """The context and the option of every option that takes numbers from a least one."""
    found = [typer.main.get_command(commands.find(name)) for name in commands.COMMANDS]
    for one in (app.command(), *found):
        context = typer.Context(one)
        for param in one.params:
            if param.type_descriptor.annotation in (int, float) and param.min is not None:
                yield context, param


@pytest.mark.parametrize("value", ["x", "-7"])
def test_the_error_of_a_number_names_the_option_the_value_and_what_it_takes(value: str) -> None:
    checked = 0
    for context, param in numbers():
        checked += 1
        with pytest.raises(typer.BadParameter) as caught:
            param.process_value(context, value)
        says = bad_value.explain(caught.value, param)
        assert says.startswith(f"{' / '.join(param.opts)} takes a ")
        assert says.endswith(f"; not '{value}'.")
        assert f"{param.min:.15g}" in says
    assert checked > 40


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("bench", "localhost:1", "--timeout", "inf"), "--timeout"),
        (("bench", "localhost:1", "--duration", "inf"), "--duration"),
        (("bench", "localhost:1", "--concurrency", HUGE), "--concurrency"),
        (("bench", "localhost:1", "--user-tokens", f"1:{HUGE}"), "--user-tokens"),
        (("replay", "x", "--slo-ttft", "inf"), "--slo-ttft"),
        (("top", "--watch", "--interval", "inf"), "--interval"),
        (("profile", "--model", "tiny", "--seconds", "inf"), "--seconds"),
    ],
)
def test_other_commands_have_bounds_too(words: tuple[str, ...], says: str) -> None:
    done = command(*words)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::1", "[::1]", "fe80::1%eth0", "my-host.lan"])
def test_addresses_and_names_pass(host: str) -> None:
    assert planned("--model", "tiny", "--host", host).frontend.host == host.strip("[]")


def test_an_address_with_colons_has_brackets_in_a_url() -> None:
    shown = dry_run.plan_of(planned("--model", "tiny", "--host", "::1"))
    assert shown["url"] == "http://[::1]:8181/v1"


def test_options_may_have_underscores_as_in_vllm() -> None:
    config = planned("--model", "tiny", "--served_model_name", "a_b", "--http_port=81")
    assert config.frontend.served_names == ("a_b",)
    assert config.frontend.port == 81
    assert "--served-model-name" not in config.engine.args


def test_brackets_in_names_are_no_markup() -> None:
    done = command("--model", "[/x]", "--served-model-name", "[red]y", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "[/x] as [red]y on" in done.stdout


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = command("--model", "tiny", "--engine", "mock", "--http-port", port)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1  # no process has reported its start
    assert f"cannot listen on 127.0.0.1:{port}: address already in use" in done.stderr


def test_a_profile_that_cannot_be_written_is_told_before_it_is_measured() -> None:
    done = command("profile", "--model", "tiny", "--output", "/nope/x.json")
    assert done.returncode == 2
    assert "there is no folder /nope" in done.stderr.splitlines()[-1]
