"""A request that an engine has read and checked, but not started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dynamo_cli.messages.request import AddRequest


@dataclass(slots=True)
class Prepared:
    """A request that the engine can run, but has not started.

    Attributes:
        client: index of the processor that it belongs to.
        message: the request as it came.
        family: the same for all requests of one API request with n > 1.
        prompt_tokens: length of the prompt.
        priority: requests with a smaller one come first.
        suitable: whether another engine can prefill its prompt.
        begin: the request in the form that the engine needs to start it.
        unfinished: work that is left before it is started, in parts of a millisecond at most. What
            the caller has not iterated over by then is done by the start.
        pushed_ns: when its prompt was given to the prefill queue, on the monotonic clock; 0 if it
            was not.
    """

    client: int
    message: AddRequest
    family: str
    prompt_tokens: int
    priority: int
    suitable: bool
    begin: Any
    unfinished: Iterator[None] = field(default_factory=lambda: iter(()))
    pushed_ns: int = 0
