"""What libraries may log while they work on a request: no text of the request."""

from __future__ import annotations

import logging
import threading
from contextvars import copy_context

import pytest

from dynamo_cli.engines.vllm.front.discretion import Discretion
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.supervisor.logs import LineFormatter
from tests.support.call import call


def said(name: str, level: int, message: str, *args: object, error: bool = False) -> str:
    """The line that is logged; empty if the record is dropped."""
    failure = ValueError("zebra")
    exc_info = (ValueError, failure, None) if error else None
    record = logging.LogRecord(name, level, "f.py", 7, message, args, exc_info)
    return LineFormatter().format(record) if Discretion().filter(record) else ""


def during_a_request(*args: object, **more: bool) -> str:
    context = copy_context()
    context.run(current_trace.set, RequestTrace("r"))
    return context.run(said, *args, **more)  # type: ignore[arg-type]


def test_nothing_is_withheld_outside_of_requests() -> None:
    assert said("vllm.a", logging.DEBUG, "loaded %s", "zebra").endswith("loaded zebra")


def test_of_warnings_only_what_is_constant_passes() -> None:
    line = during_a_request("vllm.parser", logging.WARNING, "cannot parse %s", "zebra")
    assert "vllm.parser:7: cannot parse … (withheld" in line
    assert "zebra" not in line
    assert "zebra" not in during_a_request("vllm.parser", logging.ERROR, "cannot parse zebra")


def those_that_pass(messages: list[str]) -> list[str]:
    """Those that are logged of errors that vLLM's classes log."""
    from dynamo_cli.engines.vllm.front.failures import KnownErrorFilter

    records = [
        logging.LogRecord("vllm.a", logging.ERROR, "f.py", 7, message, ("x",), None)
        for message in messages
    ]
    return [record.msg for record in records if KnownErrorFilter().filter(record)]


@pytest.mark.engine
def test_a_wrong_model_name_is_no_error_of_the_server() -> None:
    messages = ["Error with model %s", "Error with the engine %s"]
    assert call(those_that_pass, messages) == messages[1:]


def test_of_failures_only_type_and_place_pass() -> None:
    for name in ("vllm.parser", "dynamo_cli.engines.vllm.front.serving"):
        line = during_a_request(name, logging.ERROR, "failed", error=True)
        assert "ValueError: (withheld" in line
        assert "zebra" not in line
    ours = during_a_request("dynamo_cli.processor", logging.INFO, "request %s", "r1")
    assert ours.endswith("request r1")


def test_what_is_below_a_warning_does_not_pass_in_threads_either() -> None:
    assert during_a_request("vllm.entrypoints", logging.INFO, "zebra") == ""
    found: list[str] = []
    thread = threading.Thread(
        target=lambda: found.append(said("vllm.renderers", logging.DEBUG, "zebra"))
    )
    thread.start()
    thread.join()
    assert found == [""]
