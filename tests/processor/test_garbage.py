"""A processor is not stopped by objects that requests have made by the million."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.call import call

pytestmark = pytest.mark.engine

NEVER = 2**31 - 1


def threshold_when_ready() -> int:
    """How many collections of younger objects a ready processor lets pass before one of all."""
    from dynamo_cli.processor.process import Processor

    async def run() -> None:
        processor: Any = Processor.__new__(Processor)
        processor._loop = asyncio.get_running_loop()
        processor._serving = SimpleNamespace(start=lambda: asyncio.sleep(0))
        processor._switchboard = SimpleNamespace(report=lambda _: None)
        processor._announce = lambda: None
        await processor._start()

    asyncio.run(run())
    return gc.get_threshold()[2]


def kinds_of_scores(folder: str) -> list[str]:
    """The classes in which vLLM keeps the log probabilities of a stream while it runs."""
    from dynamo_cli.messages.request import Endpoint
    from tests.processor.front import Front

    found: set[str] = set()

    async def run() -> None:
        front = Front(Path(folder))
        await front.serving.start()
        front.scored_tokens = 200
        processor = front.serving._llm.output_processor
        process = processor.process_outputs

        def look(*args: Any, **more: Any) -> Any:
            states = list(processor.request_states.values())
            result = process(*args, **more)
            found.update(type(state.logprobs_processor.logprobs).__name__ for state in states)
            return result

        processor.process_outputs = look
        body = {"prompt": "hello", "max_tokens": 200, "logprobs": 2}
        for stream in (True, False):
            data = json.dumps(body | {"stream": stream}).encode()
            await front.ask(Endpoint.COMPLETIONS, data, -1, "")

    asyncio.run(run())
    return sorted(found)


def test_old_objects_are_not_collected_again_and_again() -> None:
    assert call(threshold_when_ready) == NEVER


def test_log_probabilities_are_kept_in_a_few_lists(tmp_path: Path) -> None:
    assert call(kinds_of_scores, str(tmp_path)) == ["FlatLogprobs"]
