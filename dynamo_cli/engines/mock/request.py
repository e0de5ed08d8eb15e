"""A request in a simulated engine, and what a step does to it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

NOWHERE = -1


@dataclass(slots=True, eq=False)
class SimRequest:
    """A request, and how far it is.

    Attributes:
        prompt_tokens: length of the prompt.
        output_tokens: that it will give.
        hashes: sequence hashes of its full blocks: of the prompt at first, then of what follows.
        name_block: the hash of the block of this index, which holds output; its tokens are there.
        priority: smaller comes first.
        remote_tokens: of the prompt, whose KV another engine has computed.
        cached_tokens: of the prompt, found in the cache when it first began; -1 before.
        produced, computed: output tokens, and tokens in the cache: now while it does not decode,
            else when it began to (`SimEngine.output_of` knows how many there are now).
        preemptions: how often it had to begin again.
    """

    request_id: str
    prompt_tokens: int
    output_tokens: int
    hashes: list[int]
    name_block: Callable[[SimRequest, int], int]
    priority: int = 0
    remote_tokens: int = 0
    cached_tokens: int = -1
    produced: int = 0
    computed: int = 0
    preemptions: int = 0
    blocks: list[int] = field(default_factory=list)
    rank: int = NOWHERE  # place among the running ones: later is larger
    arrival: int = 0  # its number among all requests of the engine
    since: int = 0  # the step in which it began to decode

    @property
    def order(self) -> tuple[int, int]:
        """What is smaller runs first, and is preempted last."""
        return self.priority, self.arrival

    @property
    def running(self) -> bool:
        return self.rank != NOWHERE

    @property
    def fresh(self) -> bool:
        """It has just had its first token, if it is among those that joined in this step."""
        return self.produced == 1


@dataclass(slots=True)
class StepResult:
    """What a step did; its effects can be seen when it is over, `duration_ps` after it began.

    Attributes:
        decoded: requests that got a token after the one of the step before.
        begun: requests of which it computed the first part.
        joined: requests whose prompt is computed, with a token: their first, unless preempted.
        finished: requests that got their last one, and are gone.
        preempted: requests that must begin again.
        stalled: requests that decode and got no token.
    """

    duration_ps: int = 0
    decoded: int = 0
    begun: list[SimRequest] = field(default_factory=list)
    joined: list[SimRequest] = field(default_factory=list)
    finished: list[SimRequest] = field(default_factory=list)
    preempted: list[SimRequest] = field(default_factory=list)
    stalled: list[SimRequest] = field(default_factory=list)


@dataclass(slots=True)
class Totals:
    """Counters over the life of an engine; what is queried and hit is in tokens."""

    steps: int = 0
    queries: int = 0
    hits: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
