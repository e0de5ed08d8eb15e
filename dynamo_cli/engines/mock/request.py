"""Requests of a simulated engine, and the result of a step. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from dynamo_cli.messages.telemetry import STEP_TOKENS_BOUNDS


@dataclass(slots=True, eq=False)
class SimRequest:
    """A request, and its progress.

    Attributes:
        prompt_tokens: length of the prompt.
        output_tokens: length of the answer.
        hashes: sequence hashes of its full blocks; at first only of blocks of the prompt.
        name_block: computes the sequence hash of the block with this index, which has output
            tokens.
        priority: requests with a smaller one come first.
        remote_tokens: tokens of the prompt that another engine has prefilled.
        cached_tokens: tokens of the prompt found in the cache or loaded when it first ran; None
            before that, and if it is resumed.
        loaded_tokens: how many of `cached_tokens` were loaded from the host cache.
        in_host: leading blocks that the host cache had when it was asked; None if it was not asked.
        produced, computed: number of output tokens, and of tokens in the cache. While it decodes,
            these are the numbers at the step `since`; `SimEngine.output_of` gives the present one.
        preemptions: how often it was preempted.
        resumed: number of output tokens that another engine had produced before it came here.
    """

    request_id: str
    prompt_tokens: int
    output_tokens: int
    hashes: list[int]
    name_block: Callable[[SimRequest, int], int]
    priority: int = 0
    remote_tokens: int = 0
    cached_tokens: int | None = None
    loaded_tokens: int = 0
    in_host: int | None = None
    produced: int = 0
    computed: int = 0
    preemptions: int = 0
    resumed: int = 0
    blocks: list[int] = field(default_factory=list)
    running: bool = False  # it is being prefilled, or decodes
    rank: int = 0  # its place among the running requests; one that began later has a larger rank
    arrival: int = 0  # number of its arrival at the engine
    since: int = 0  # the step in which it began to decode

    @property
    def tokens(self) -> int:
        """Tokens to compute before its next output token, while it does not decode."""
        return self.prompt_tokens + self.produced

    @property
    def counts(self) -> bool:
        """Whether its cache hits count now: they count once, when its prompt is computed first."""
        return not self.preemptions and not self.resumed

    @property
    def order(self) -> tuple[int, int]:
        """The key of its order: requests with a smaller key run first and are preempted last."""
        return self.priority, self.arrival

    @property
    def fresh(self) -> bool:
        """Whether it got its first token in the step in which its prompt was completed."""
        return self.produced == 1


@dataclass(slots=True)
class StepResult:
    """What a step did. Its outputs come `duration_ps` after it began.

    Attributes:
        duration_ps: how long it takes, in picoseconds.
        decoded: number of requests that decoded a token.
        prefilled: number of prompt tokens that it computed.
        begun: requests of whose prompt it computed the first part.
        joined: requests whose prompt it completed, and that decode from the next step on. The step
            gave each of them a token: the first one, unless it was preempted or is resumed.
        finished: requests that got their last token, and have left.
        preempted: requests that were preempted.
        stalled: requests that decode, but got no token, because a preemption ended the step early.
        idle: whether it computed nothing, because all requests wait for the host cache.
    """

    duration_ps: int = 0
    decoded: int = 0
    prefilled: int = 0
    begun: list[SimRequest] = field(default_factory=list)
    joined: list[SimRequest] = field(default_factory=list)
    finished: list[SimRequest] = field(default_factory=list)
    preempted: list[SimRequest] = field(default_factory=list)
    stalled: list[SimRequest] = field(default_factory=list)
    idle: bool = False


@dataclass(slots=True)
class MockTotals:
    """Counters since the start of an engine; queries and hits of the prefix cache,
    and what was loaded from the host cache, are in tokens."""

    steps: int = 0
    queries: int = 0
    hits: int = 0
    loaded: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    preemptions: int = 0
    step_tokens: list[int] = field(default_factory=lambda: [0] * (len(STEP_TOKENS_BOUNDS) + 1))
    step_tokens_sum: int = 0

    def stepped(self, tokens: int, steps: int = 1) -> None:
        """Count steps with this many tokens each: output tokens and tokens of completed prompts."""
        if tokens:
            self.step_tokens[bisect_left(STEP_TOKENS_BOUNDS, tokens)] += steps
            self.step_tokens_sum += tokens * steps
