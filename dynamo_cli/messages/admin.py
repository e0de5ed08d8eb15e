"""Orders of operators: to engines (in workers and prefill workers), and about LoRA adapters."""

from __future__ import annotations

from enum import StrEnum

from dynamo_cli.config import Adapter
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.request import ForProcessor

# -- frontend -> worker and prefill worker, and back ------------------------------------------


class Operation(StrEnum):
    """What an operator asks of an engine; the value is the path of the URL."""

    SLEEP = "/sleep"
    WAKE_UP = "/wake_up"
    IS_SLEEPING = "/is_sleeping"
    RESET_PREFIX_CACHE = "/reset_prefix_cache"


class Operate(Message, frozen=True):
    """Carry out an operation on the engine; answered by `Operated`.

    Attributes:
        call_id: number of the call, which its answer repeats.
        level: how deep the sleep is: 0 pauses the engine, 1 moves the weights to main memory, 2
            drops them.
        wait: whether running requests finish before the engine sleeps; else they are aborted.
        tags: parts of the engine to wake up; empty for all.
        reset_running: whether running requests are preempted, so that their blocks are reset too.
        closed: for the host cache: after this reset it gives and takes no blocks until the next.
    """

    call_id: int
    operation: Operation
    level: int = 1
    wait: bool = False
    tags: tuple[str, ...] = ()
    reset_running: bool = False
    closed: bool = False


class Operated(Message, frozen=True):
    """The result of an operation.

    Attributes:
        call_id: number of the call.
        result: whether the engine sleeps now; for a reset, whether the cache was reset.
        error: name of a class in errors.py if the operation failed, else empty.
        message: why it failed.
    """

    call_id: int
    result: bool
    error: str = ""
    message: str = ""


# -- frontend -> processor --------------------------------------------------------------------


class LoadAdapter(ForProcessor, frozen=True):
    """Serve a LoRA adapter; answered with status 200 once every ready worker has loaded it."""

    adapter: Adapter


class UnloadAdapter(ForProcessor, frozen=True):
    """Take no more requests for a LoRA adapter; answered with status 200."""

    adapter: Adapter
