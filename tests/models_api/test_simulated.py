"""What operators change on servers with simulated engines."""

from __future__ import annotations

import pytest

from tests.models_api.conftest import KEY, Client
from tests.models_api.test_adapters import kill
from tests.models_api.test_scaling import scale, under_load
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.engine

OPTIONS = ("--engine", "mock", "--router", "kv", "--debug-headers")
ADMIN = ("--enable-admin", "--api-key", KEY)


def test_simulated_workers_come_and_go_and_no_request_fails() -> None:
    with Server(*OPTIONS, *ADMIN) as server:
        client = Client(server)
        with under_load(client) as load:
            scale(client, 4)
            wait_until(lambda: len(load.workers) == 4, 30, "four workers answer")
            scale(client, 2)
            before = sum(load.statuses.values())
            wait_until(lambda: sum(load.statuses.values()) > before + 20, 30, "two answer")
        assert set(load.statuses) == {200}, load.statuses


def test_bounds_of_prefills_outlive_the_frontend_and_the_worker() -> None:
    with Server(*OPTIONS, "--prefill-workers", "1", *ADMIN) as server:
        client = Client(server)
        rule = client.post("/dynamo/placement", {"max_local_prefill_length": 50}).body
        assert rule["max_local_prefill_length"] == 50
        for name in ("frontend", "worker 0"):
            kill(client, name)
            assert client.get("/dynamo/placement").body == rule
        client.complete("tiny", "short")

        def placements() -> dict[str, int]:
            prefill = client.get("/dynamo/snapshot").body["prefill"] or {}
            return dict(prefill.get("placements", {}))

        wait_until(placements, 30, "it is counted")
        assert placements() == {"local:short": 1}
