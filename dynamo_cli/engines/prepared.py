"""A request that an engine can run, and has not begun."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynamo_cli.messages.request import AddRequest


@dataclass(slots=True)
class Prepared:
    """A request that the engine can run, and has not begun.

    Attributes:
        client: the processor that it belongs to.
        message: as it came.
        family: siblings of one prompt (n > 1) have the same.
        suitable: it can be prefilled elsewhere.
        begin: what the engine takes.
        pushed_ns: when its prompt was given to the prefill queue; 0: it was not.
    """

    client: int
    message: AddRequest
    family: str
    prompt_tokens: int
    priority: int
    suitable: bool
    begin: Any
    pushed_ns: int = 0
