"""Scaling of workers with simulated engines, which are started without a zygote."""

from __future__ import annotations

import pytest

from tests.models_api.conftest import KEY, Client
from tests.models_api.test_scaling import scale, under_load
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.engine

OPTIONS = ("--engine", "mock", "--router", "kv", "--debug-headers")


def test_simulated_workers_come_and_go_and_no_request_fails() -> None:
    with Server(*OPTIONS, "--enable-admin", "--api-key", KEY) as server:
        client = Client(server)
        with under_load(client) as load:
            scale(client, 4)
            wait_until(lambda: len(load.workers) == 4, 30, "four workers answer")
            scale(client, 2)
            before = sum(load.statuses.values())
            wait_until(lambda: sum(load.statuses.values()) > before + 20, 30, "two answer")
        assert set(load.statuses) == {200}, load.statuses
