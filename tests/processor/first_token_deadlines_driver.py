"""Five requests that wait too long at one worker, in a process of its own.

Prints how many lines of each level are logged about them (see `test_episodes`).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from types import SimpleNamespace
from typing import Any

from dynamo_cli.engines.vllm.front import first_token_deadlines


class Kept(logging.Handler):
    """Counts lines by level."""

    def __init__(self) -> None:
        super().__init__()
        self.levels: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.levels[record.levelname] += 1


async def main() -> dict[str, int]:
    kept = Kept()
    first_token_deadlines.logger.addHandler(kept)
    first_token_deadlines.logger.setLevel(logging.DEBUG)
    moved: asyncio.Queue[Any] = asyncio.Queue()
    workers: Any = SimpleNamespace(ready_workers=lambda: {0, 1})
    watch = first_token_deadlines.FirstTokenDeadlines(
        0.01, workers, lambda live, _: moved.put_nowait(live), lambda *_: None
    )
    for number in range(5):
        trace = SimpleNamespace(api_id=f"r{number}")
        live: Any = SimpleNamespace(output=b"", worker=0, overdue=False, deadline=None, trace=trace)
        watch.begin(live)
    for _ in range(5):
        await moved.get()
    return dict(kept.levels)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
