"""What is set before vLLM is imported."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm import environment

EAGER, COMPILED = "--enforce-eager", "--no-enforce-eager"


@pytest.mark.parametrize(
    ("args", "devices", "compiles"),
    [
        ((EAGER,), (), False),
        ((COMPILED, EAGER), (), False),
        ((EAGER, COMPILED), (), True),
        ((), (), True),
        (("-O0",), (), True),
        ((EAGER,), (0,), True),  # kernels are compiled there in any case, and tried before ready
    ],
)
def test_eager_engines_of_a_cpu_compile_nothing(
    args: tuple[str, ...], devices: tuple[int, ...], compiles: bool
) -> None:
    config = EngineConfig("tiny", "/tiny", ("tiny",), args=args, devices=devices)
    with patch.dict("os.environ", clear=True):
        environment.prepare(config)
        assert environment.compiles() is compiles
