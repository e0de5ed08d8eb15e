"""Requests as workers get them, or do not."""

from __future__ import annotations

import json

import pytest

from tests.support.driver import run


@pytest.mark.engine
def test_two_requests_of_one_id_are_not_siblings_and_those_that_are_too_large_end() -> None:
    done = run("tests.processor.client_driver")
    assert done.returncode == 0, done.stderr
    (first, sibling, stranger), ended = json.loads(done.stdout.splitlines()[-1])
    assert first == sibling != stranger
    assert ended == [["413", "message_too_large"]] * 2
