"""Makes the ids and times in an answer the same in every processor that goes on with its stream.

vLLM's serving classes make them with `random_uuid` and `time.time`. Here these are replaced: within
a request that has a seed, each id is a hash of the seed and a counter; the time is always that of
the request.
"""

from __future__ import annotations

import importlib
import random
import time
import uuid
from hashlib import blake2b
from typing import Any

from vllm import utils
from vllm.v1.engine import input_processor

from dynamo_cli.engines.vllm.front.trace import current_trace

TIMED = (
    "vllm.entrypoints.openai.chat_completion.serving",
    "vllm.entrypoints.openai.completion.serving",
    "vllm.entrypoints.openai.responses.protocol",
    "vllm.entrypoints.openai.responses.serving",
    "vllm.entrypoints.anthropic.protocol",
    "vllm.entrypoints.anthropic.serving",
)
"""Modules that put the time into answers."""

NAMING = ("vllm.utils", "vllm.entrypoints.anthropic.serving")
"""Modules that make ids with `uuid`; all other modules use `random_uuid` of the first one."""

CHOOSING = ("vllm.parser.mistral",)
"""Modules that make ids with `random.choices`."""

ID_BYTES = 16


class _Clock:
    """Stands in for the module `time`: within a request, `time` returns its creation time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        trace = current_trace.get(None)
        return trace.created_s if trace is not None and trace.created_s else time.time()


class _Ids:
    """Stands in for the module `uuid`: `uuid4` derives an id from the seed of the request."""

    def __getattr__(self, name: str) -> Any:
        return getattr(uuid, name)

    def uuid4(self) -> uuid.UUID:
        made = _next()
        return uuid.uuid4() if made is None else uuid.UUID(bytes=made, version=4)


def _next() -> bytes | None:
    """Return the bytes of the next id of the request; None if it has no seed."""
    trace = current_trace.get(None)
    if trace is None or not trace.seed:
        return None
    trace.ids += 1
    return blake2b(b"%d" % trace.ids, digest_size=ID_BYTES, key=trace.seed).digest()


def _choices(population: Any, *args: Any, **more: Any) -> list[Any]:
    """Stand in for `random.choices`: within a request with a seed, the choice depends on it."""
    made = _next()
    return (random if made is None else random.Random(made)).choices(population, *args, **more)


def install() -> None:
    """Replace the functions with which vLLM's serving classes make ids and times, once per process.

    The ids of engine requests stay random, since two processors may have the same API request.
    """
    if isinstance(getattr(utils, "uuid", None), _Ids):
        return
    input_processor.random_uuid = lambda: uuid.uuid4().hex
    for names, attribute, stand_in in (
        (TIMED, "time", _Clock()),
        (NAMING, "uuid", _Ids()),
        (CHOOSING, "choices", _choices),
    ):
        for name in names:
            try:
                module = importlib.import_module(name)
            except ImportError:  # it needs an optional package, without which vLLM cannot use it
                continue
            assert hasattr(module, attribute), f"{name} has no {attribute}"
            setattr(module, attribute, stand_in)
