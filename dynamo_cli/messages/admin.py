"""What operators change: engines (workers and prefill workers), and adapters (processors)."""

from __future__ import annotations

from enum import StrEnum

from dynamo_cli.config import Adapter
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.request import ForProcessor

# -- frontend -> worker and prefill worker, and back ------------------------------------------


class Operation(StrEnum):
    """What to do; the value is the URL's path."""

    SLEEP = "/sleep"
    WAKE_UP = "/wake_up"
    IS_SLEEPING = "/is_sleeping"
    RESET_PREFIX_CACHE = "/reset_prefix_cache"


class Operate(Message, frozen=True):
    """Do this with the engine; answered by `Operated`.

    Attributes:
        level: of sleep: 0 only pauses, 1 moves the weights to main memory, 2 drops them.
        wait: sleep when what runs is finished; else it is aborted.
        tags: what to wake up; all when empty.
        reset_running: requests that run give up their blocks too, and compute them again.
    """

    call_id: int
    operation: Operation
    level: int = 1
    wait: bool = False
    tags: tuple[str, ...] = ()
    reset_running: bool = False


class Operated(Message, frozen=True):
    """It is done.

    Attributes:
        result: whether the engine sleeps now; of a reset, whether it was possible.
        error: a class of errors.py when it failed, and `message` why; else empty.
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
