"""What a measurement of a real engine gives: sums over steps, and bursts of requests. Pure."""

from __future__ import annotations

import statistics

import msgspec

TERMS = (
    "step_s",
    "prefill_request_s",
    "prefill_token_s",
    "prefill_context_s",
    "decode_request_s",
    "decode_context_s",
)
"""Of a profile, each with what it is multiplied with: the sums of a `Run`, in their order."""

Times = dict[str, float]
"""By the names in `TERMS`."""


class Run(msgspec.Struct, frozen=True):
    """Some steps of an engine; sums over all of them.

    Attributes:
        kind: prefill or decode: what most of it was.
        prefill_requests: prompts of which something is computed.
        prefill_pairs: pairs of a prompt's token and one before it.
        decode_context: cached tokens of all that decode.
        seconds: that they took together.
    """

    kind: str
    steps: int
    prefill_requests: int
    prefill_tokens: int
    prefill_pairs: int
    decode_requests: int
    decode_context: int
    seconds: float

    @property
    def sums(self) -> tuple[int, ...]:
        """In the order of `TERMS`."""
        return (
            self.steps,
            self.prefill_requests,
            self.prefill_tokens,
            self.prefill_pairs,
            self.decode_requests,
            self.decode_context,
        )

    def predicted_s(self, times: Times) -> float:
        """What it should have taken."""
        return sum(times[name] * total for name, total in zip(TERMS, self.sums, strict=True))


def pairs(tokens: int, before: int) -> int:
    """Of each of these tokens of a prompt with all those before it."""
    return tokens * before + tokens * (tokens - 1) // 2


class Burst(msgspec.Struct, frozen=True):
    """Requests that an engine got all at once, and which nothing was fitted to.

    Attributes:
        lengths: prompt and output tokens of each.
        ttft_s: of each; empty when this is only planned.
        total_s: until the last token of all.
    """

    lengths: tuple[tuple[int, int], ...]
    ttft_s: tuple[float, ...] = ()
    total_s: float = 0.0

    @property
    def ttft_mean_s(self) -> float:
        return statistics.fmean(self.ttft_s)

    @property
    def output_tokens_per_s(self) -> float:
        return sum(output for _, output in self.lengths) / self.total_s
