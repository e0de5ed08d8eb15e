"""Requests to which clients gave the same id are told apart by workers."""

from __future__ import annotations

import json

import pytest

from tests.support.driver import run


@pytest.mark.engine
def test_two_requests_of_one_id_are_not_siblings() -> None:
    done = run("tests.processor.client_driver")
    assert done.returncode == 0, done.stderr
    first, sibling, stranger = json.loads(done.stdout.splitlines()[-1])
    assert first == sibling != stranger
