"""``python -m tests.preflight.refusals_driver``: how refusals of vLLM itself are reported.

It imports vLLM once. Each line of standard input is a case, ``{"name", "path", "args"}``. For each,
a fork of this process builds the front half and an engine, as a processor and a worker do, and
writes the outcome to standard output: ``{"name", "error", "message", "code"}``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.errors import DynamoError

ARGS = ("--enforce-eager", "--max-num-seqs", "4", "--kv-cache-memory-bytes", str(16 << 20))


def main() -> None:
    environment.prepare(EngineConfig(model="", path="", served_names=("m",), threads=1))
    from dynamo_cli.engines.vllm.core import engine  # noqa: F401 - for all forks
    from dynamo_cli.engines.vllm.front import serving  # noqa: F401 - for all forks

    for line in sys.stdin:
        case = json.loads(line)
        if (child := os.fork()) == 0:
            try:
                sys.stdout.write(json.dumps({"name": case["name"], **_outcome(case)}) + "\n")
                sys.stdout.flush()
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def _outcome(case: dict[str, Any]) -> dict[str, Any]:
    try:
        _build(case["path"], (*ARGS, *case["args"]))
    except DynamoError as error:
        kind = type(error).__name__
        return {"error": kind, "message": error.message, "code": error.exit_code}
    except Exception as error:  # noqa: BLE001 - nothing else should come
        return {"error": f"unnamed {type(error).__name__}", "message": str(error), "code": 70}
    return {"error": "", "message": "", "code": 0}


def _build(path: str, args: tuple[str, ...]) -> None:
    from dynamo_cli.engines.vllm.core.engine import VllmEngine
    from dynamo_cli.engines.vllm.front.serving import Serving

    config = EngineConfig(model=path, path=path, served_names=("m",), args=args, threads=1)

    async def front() -> None:
        Serving(config, None)  # type: ignore[arg-type]

    asyncio.run(front())
    VllmEngine(0, config)


if __name__ == "__main__":
    main()
