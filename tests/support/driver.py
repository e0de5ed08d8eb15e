"""Programs that drive one real engine in a process of their own: vLLM is not for the tests' own.

The process is a fork of one that has imported vLLM (`tests.support.preloaded`).
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from typing import IO, Any

from dynamo_cli.config import EngineConfig
from dynamo_cli.models import catalog
from tests.support.preloaded import ENGINES

BLOCK = 32
"""Tokens."""

RESULT = "RESULT"
"""Begins the line that has the result, as JSON; libraries print more."""

PATIENCE_S = 280


def config_of(model: str, *args: str) -> EngineConfig:
    """An engine for the tiny model that is small, exact and alike on every machine."""
    return EngineConfig(
        model="tiny",
        path=model,
        served_names=("tiny",),
        args=("--block-size", str(BLOCK), "--enforce-eager", "--dtype", "float32", *args),
        threads=1,
        kv_cache_limit_bytes=64 << 20,
    )


def tell(result: Any) -> None:
    """In the driver: its result."""
    print(RESULT + json.dumps(result))


def tiny() -> str:
    """The folder of the tiny model."""
    return str(catalog.resolve("tiny", lambda _: None).path)


def result_of(module: str, *words: str) -> Any:
    """In the test: what the driver tells when it is given these words."""
    return drive(module, *words)[0]


def drive(module: str, *words: str) -> tuple[Any, str]:
    """The same, and what it has logged."""
    done = run(module, *words)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith(RESULT))
    return json.loads(line.removeprefix(RESULT)), done.stderr


def run(module: str, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """In the test: what comes of a program that reads `given`, whatever that is."""
    return ENGINES.run(["-m", module, *words], os.environ, given=given, timeout_s=PATIENCE_S)


class Talk:
    """In the test: a program that answers each line with a line, for as long as there are some.

    Args:
        log: where its errors go.
    """

    def __init__(self, log: IO[str], module: str, *words: str) -> None:
        (read, told), (heard, write) = os.pipe(), os.pipe()
        self._told, self._heard = os.fdopen(told, "w"), os.fdopen(heard)
        with os.fdopen(read) as given, os.fdopen(write, "w") as out:
            self._running = ENGINES.fork(["-m", module, *words], os.environ, given, out, log)

    def ask(self, line: str) -> str:
        """Its answer; empty when it has ended."""
        self._told.write(line + "\n")
        self._told.flush()
        return self._heard.readline()

    def end(self) -> int:
        """Its exit code, once it has nothing more to read."""
        if not self._told.closed:
            with suppress(BrokenPipeError):  # it ended before
                self._told.close()
            self._heard.read()
            self._heard.close()
        return self._running.wait(PATIENCE_S)
