"""One line in the log for many requests that wait too long at the same worker."""

from __future__ import annotations

import json

import pytest

from dynamo_cli.engines.vllm.front.episodes import QUIET_S, Onsets
from tests.support.driver import run


def test_an_episode_begins_after_a_quiet_time_and_for_each_worker_alone() -> None:
    onsets = Onsets()
    steps = [(0, 1.0), (0, 2.0), (1, 2.0), (0, 30.0), (0, 59.0), (0, 59.0 + QUIET_S + 1), (1, 99.0)]
    begins = [onsets.begins(worker, at_s) for worker, at_s in steps]
    assert begins == [True, False, True, False, False, True, True]


@pytest.mark.engine
def test_requests_that_wait_too_long_at_a_worker_are_one_warning() -> None:
    done = run("tests.processor.first_token_deadlines_driver")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"WARNING": 1, "DEBUG": 4}
