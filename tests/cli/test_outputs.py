"""Where the lines of a run go with ``--log-file``, and what is wrong with such a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from dynamo_cli.cli.outputs import outputs
from dynamo_cli.cli.service_view import ServiceView
from dynamo_cli.cli.views import PlainView
from dynamo_cli.errors import ResourceError, UsageError
from dynamo_cli.plan import log_file
from dynamo_cli.plan.typed import Typed


def typed(**given: object) -> Typed:
    return Typed(model="tiny", **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_file_has_access_lines_and_errors_also_with_the_dashboard(
    tmp_path: Path, log_format: str
) -> None:
    path = tmp_path / "log"
    with (
        pytest.raises(ResourceError),
        outputs(
            typed(log_file=path, log_format=log_format), dashboard=True, errors_only=False
        ) as out,
    ):
        view = out.beside_others(out.plain)
        view.access("frontend", '{"id":"a"}')
        view.log("worker 0", "ERROR", "bad")
        out.failed(ResourceError("no memory"))
    lines = path.read_text().splitlines()
    assert len(lines) == 3
    if log_format == "json":
        assert [json.loads(one)["message"] for one in lines] == ["request", "bad", "no memory"]
    else:
        assert lines[0].endswith("frontend     request id=a")
        assert lines[2].endswith("ERROR    dynamo-llm   no memory")


def test_json_lines_on_standard_error_end_with_the_failure(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with outputs(typed(log_format="json"), dashboard=False, errors_only=False) as out:
        assert out.failed(ResourceError("no memory")) == 1
    assert json.loads(capfd.readouterr().err)["message"] == "no memory"


def test_systemd_hears_of_everything_beside_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    options = typed(log_file=tmp_path / "log")
    with outputs(options, dashboard=False, errors_only=True) as out:
        assert [type(view) for view in out.others] == [PlainView, ServiceView]
        assert "NOTIFY_SOCKET" not in os.environ, "children do not speak for the service"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"log_file": Path("/nowhere/log")}, "there is no folder /nowhere"),
        ({"log_file": Path("/tmp")}, "is a folder"),
        ({"log_file_size": "1GiB"}, "works only with --log-file"),
        ({"log_file": Path("x"), "log_file_size": "1"}, "at least 64KiB"),
        ({"log_file": Path("x"), "log_file_size": "much"}, "takes a size like"),
    ],
)
def test_what_is_wrong_with_the_options_is_said(given: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        log_file.check(typed(**given))


def test_a_file_that_cannot_be_opened_is_a_usage_error(tmp_path: Path) -> None:
    options = typed(log_file=tmp_path / ("x" * 300))
    with (
        pytest.raises(UsageError, match="cannot be written: file name too long"),
        outputs(options, dashboard=False, errors_only=False),
    ):
        pass
