"""The tokenizer is loaded beside the model, where that can be done and helps."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import pytest

from tests.support.call import call

pytestmark = pytest.mark.engine


def loaded_by(cpu: bool, ranks: int, fails: bool) -> list[str]:
    """Which kind of thread loads the tokenizer while the engine is built."""
    from dynamo_cli.engines.vllm.core import build

    told: list[str] = []
    start = threading.Thread.start

    def start_and_wait(thread: threading.Thread) -> None:
        start(thread)
        thread.join()

    def load(_: Any) -> None:
        here = threading.current_thread()
        told.append("main" if here is threading.main_thread() else f"daemon {here.daemon}")
        if fails:
            raise OSError("there is no tokenizer")

    config = SimpleNamespace(parallel_config=SimpleNamespace(world_size=ranks), model_config=None)
    with (
        patch.object(build, "current_platform", Mock(is_cpu=lambda: cpu)),
        patch.object(build, "cached_tokenizer_from_config", load),
        patch.object(build, "EngineCore"),
        patch.object(build, "_executor_class"),
        patch.object(threading.Thread, "start", start_and_wait),
        patch("threading.excepthook", lambda _: told.append("a traceback")),
    ):
        build.build(config)
    return told


@pytest.mark.parametrize(
    ("cpu", "ranks", "fails", "told"),
    [
        (False, 1, False, ["daemon True"]),
        (False, 1, True, ["daemon True"]),
        (False, 2, False, []),
        (True, 1, False, []),
    ],
)
def test_it_is_loaded_in_a_thread_but_not_before_ranks_are_forked(
    cpu: bool, ranks: int, fails: bool, told: list[str]
) -> None:
    assert call(loaded_by, cpu, ranks, fails) == told
