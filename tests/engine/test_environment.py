"""The environment variables that are set before vLLM is imported."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest

from dynamo_cli.config import Device, Devices, EngineConfig
from dynamo_cli.engines.vllm.options import environment

EAGER, COMPILED = "--enforce-eager", "--no-enforce-eager"


@pytest.mark.parametrize(
    ("args", "devices", "compiles"),
    [
        ((EAGER,), (), False),
        ((COMPILED, EAGER), (), False),
        ((EAGER, COMPILED), (), True),
        ((), (), True),
        (("-O0",), (), True),
        # On GPUs kernels are compiled in any case, and each is run before the engine is ready.
        ((EAGER,), (Device("0", "GPU-0"),), True),
    ],
)
def test_eager_engines_of_a_cpu_compile_nothing(
    args: tuple[str, ...], devices: Devices, compiles: bool
) -> None:
    config = EngineConfig("tiny", "/tiny", ("tiny",), args=args, devices=devices)
    with patch.dict("os.environ", clear=True):
        environment.prepare(config)
        assert environment.compiles() is compiles


@pytest.mark.parametrize(("value", "left"), [("tcp://10.0.0.7:8000", None), ("8000", "8000")])
def test_a_service_of_kubernetes_is_no_port(value: str, left: str | None) -> None:
    with patch.dict("os.environ", {"VLLM_PORT": value}, clear=True):
        environment.prepare(EngineConfig("tiny", "tiny", ("tiny",)))
        assert os.environ.get("VLLM_PORT") == left


@pytest.mark.parametrize(
    ("own", "used"), [({}, "/cache/dynamo-llm/triton"), ({"TRITON_CACHE_DIR": "/t"}, "/t")]
)
def test_kernels_are_kept_where_the_next_start_looks(own: dict[str, str], used: str) -> None:
    """vLLM, which compiles, and torch, which loads compiled code, leave a named folder alone."""
    with patch.dict("os.environ", {"XDG_CACHE_HOME": "/cache", **own}, clear=True):
        environment.prepare(EngineConfig("tiny", "tiny", ("tiny",)))
        assert os.environ["TRITON_CACHE_DIR"] == used
