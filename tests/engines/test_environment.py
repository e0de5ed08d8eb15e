"""What vLLM finds in its environment."""

from __future__ import annotations

import os

import pytest

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm.environment import prepare


@pytest.mark.parametrize(("value", "left"), [("tcp://10.0.0.7:8000", None), ("8000", "8000")])
def test_a_service_of_kubernetes_is_no_port(
    monkeypatch: pytest.MonkeyPatch, value: str, left: str | None
) -> None:
    monkeypatch.setattr(os, "environ", {"VLLM_PORT": value})
    prepare(EngineConfig("tiny", "tiny", ("tiny",)))
    assert os.environ.get("VLLM_PORT") == left
