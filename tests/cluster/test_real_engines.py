"""Real engines on two nodes, each forked from the zygote of its node."""

from __future__ import annotations

import pytest

from tests.cluster.nodes import Nodes
from tests.cluster.test_nodes import ask, on, text_of
from tests.support.server import SMALL, Server, wait_until

pytestmark = pytest.mark.engine


def test_engines_of_two_nodes_answer_alike() -> None:
    with Nodes("node-a", "node-b") as nodes:
        options = ("--workers", "2", "--router", "kv", "--ray", nodes.address, *SMALL)
        with Server(*options, environment=nodes.environment) as server:
            assert len(on(server, "node-a")) == len(on(server, "node-b")) == 1
            prompt = "The same words again and again. " * 40
            first = text_of(ask(server, prompt))
            others = [
                text_of(ask(server, f"Other words, number {turn}. " * 40)) for turn in range(3)
            ]
            assert text_of(ask(server, prompt)) == first
            assert all(others)

            def all_found() -> bool:
                newest = server.get("/dynamo/decisions?limit=1")[1]["decisions"][0]
                return bool(newest["predicted_tokens"] == newest["measured_tokens"] > 0)

            wait_until(all_found, 20, "what was predicted was found")
        wait_until(lambda: not nodes.outposts(), 5, "nothing is left on the nodes")
