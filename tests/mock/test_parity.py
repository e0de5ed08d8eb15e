"""The simulated engine does with its blocks what vLLM does, to the single event."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dynamo_cli.models import catalog


@pytest.mark.engine
@pytest.mark.parametrize(("kind", "seeds"), [("engine", "1"), ("scheduler", "2 3 4 5 6")])
def test_simulated_and_real_engine_tell_the_same(kind: str, seeds: str) -> None:
    model = catalog.resolve("tiny", lambda _: None).path
    done = subprocess.run(
        [sys.executable, "-m", "tests.mock.parity_driver", str(model), kind, *seeds.split()],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    for result in json.loads(line.removeprefix("RESULT")):
        assert result["differs"] is None
        # There was enough to differ in.
        assert result["requests"] > 100
        assert result["aborted"] > 5
        assert result["removed"] > 300
        assert result["cached"] > 2_000
        assert result["preemptions"] > 10
