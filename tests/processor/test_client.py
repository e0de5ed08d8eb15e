"""Requests to which clients gave the same id are told apart by workers."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.engine
def test_two_requests_of_one_id_are_not_siblings() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.processor.client_driver"],
        check=True,
        capture_output=True,
        text=True,
        timeout=250,
    )
    first, sibling, stranger = json.loads(done.stdout.splitlines()[-1])
    assert first == sibling != stranger
