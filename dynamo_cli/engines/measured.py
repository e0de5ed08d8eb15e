"""Results of measurements of a real engine: sums over steps, and bursts of requests. Pure."""

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
"""Names of a profile's times. Each is multiplied by one of the sums of a `MeasuredRun`, in this
order."""

Times = dict[str, float]
"""Seconds by the names in `TERMS`."""


class MeasuredRun(msgspec.Struct, frozen=True):
    """Several steps of an engine: sums over all of them.

    Attributes:
        kind: ``prefill`` or ``decode``: what these steps measure.
        steps: number of steps.
        prefill_requests: number of prompts of which something was computed.
        prefill_tokens: prompt tokens that were computed.
        prefill_pairs: pairs of a computed prompt token and a token before it.
        decode_requests: number of requests that decoded a token.
        decode_context: cached tokens of these requests.
        seconds: how long the steps took together.
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
        """The sums in the order of `TERMS`."""
        return (
            self.steps,
            self.prefill_requests,
            self.prefill_tokens,
            self.prefill_pairs,
            self.decode_requests,
            self.decode_context,
        )

    def predicted_s(self, times: Times) -> float:
        """How long the steps should have taken, by these times of a profile."""
        return sum(times[name] * total for name, total in zip(TERMS, self.sums, strict=True))


def pairs(tokens: int, before: int) -> int:
    """Number of pairs of each of these tokens of a prompt with every token before it.

    Args:
        tokens: number of tokens.
        before: number of tokens of the prompt before them.
    """
    return tokens * before + tokens * (tokens - 1) // 2


class Burst(msgspec.Struct, frozen=True):
    """Requests that an engine got all at once. A profile is compared with them, but not fitted to
    them.

    Attributes:
        lengths: prompt and output tokens of each request.
        ttft_s: time to first token of each request, seconds; empty before it is measured.
        total_s: time until the last token of all requests, seconds.
    """

    lengths: tuple[tuple[int, int], ...]
    ttft_s: tuple[float, ...] = ()
    total_s: float = 0.0

    @property
    def ttft_mean_s(self) -> float:
        """Mean time to first token."""
        return statistics.fmean(self.ttft_s)

    @property
    def output_tokens_per_s(self) -> float:
        """Throughput of the whole burst."""
        return sum(output for _, output in self.lengths) / self.total_s
