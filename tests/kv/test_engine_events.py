"""The processor's hashes are those that a real engine's events give, whatever goes into them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dynamo_cli.models import catalog
from tests.support.adapter import write


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("adapter")
    return write(folder)


@pytest.mark.engine
def test_hashes_of_requests_equal_those_of_events(adapter: Path) -> None:
    model = catalog.resolve("tiny", lambda _: None).path
    done = subprocess.run(
        [sys.executable, "-m", "tests.kv.engine_driver", str(model), str(adapter), "7"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    result = json.loads(line.removeprefix("RESULT"))
    assert result["wrong"] == []
    assert result["hits"] > 5_000  # there was something to predict
    assert result["removed"] > 200  # and the cache was too small for all of it
