"""Profiles of simulated engines: how long a step takes, and how large the engine is; JSON files.

The time of a step is the sum of

    step_s                                           always: weights are read once
    prefill_request_s x prompts of which something is computed
    prefill_token_s   x prompt tokens computed
    prefill_context_s x pairs of such a token and a token before it
    decode_request_s  x requests that get one more token
    decode_context_s  x tokens that these requests have in the cache

Transferring the KV of a prompt to another engine takes ``transfer_s + transfer_token_s x tokens``.
Loading from the host cache takes ``load_s + load_token_s x tokens``, while steps go on. Times are
kept in whole picoseconds, so that many steps simulated at once take exactly as long as the same
steps one by one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import msgspec

from dynamo_cli.errors import UsageError

PS = 10**12
"""Picoseconds in a second."""

BUILT_IN = resources.files("dynamo_cli.engines.mock").joinpath("profiles")
SUFFIX = ".json"
DEFAULT_PROFILE = "gpu-8b"
"""The profile if neither the user nor a record of requests names one."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of engine. Times are in seconds, as above; sizes have vLLM's names.

    Attributes:
        name: shown to people.
        source: where the figures come from, in a sentence.
        block_size: tokens per KV block.
        num_blocks: number of KV blocks, one of which is never used.
        max_num_seqs: most requests in a step.
        max_num_batched_tokens: most tokens in a step.
        prefill_chunk_tokens: most prompt tokens in a step while an answer streams; 0: no limit.
        max_model_len: most tokens of a prompt and its answer together.
        kv_token_bytes: bytes of KV per token, which decide how many tokens the host cache holds.
    """

    name: str
    source: str
    step_s: float
    prefill_token_s: float
    decode_request_s: float
    prefill_request_s: float = 0.0
    prefill_context_s: float = 0.0
    decode_context_s: float = 0.0
    transfer_s: float = 0.0
    transfer_token_s: float = 0.0
    load_s: float = 0.0002
    load_token_s: float = 3e-6
    block_size: int = 16
    num_blocks: int = 10_000
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    prefill_chunk_tokens: int = 0
    max_model_len: int = 131_072
    kv_token_bytes: int = 131_072

    @property
    def slot_bytes(self) -> int:
        """Size of one KV block."""
        return self.block_size * self.kv_token_bytes

    @property
    def kv_bytes(self) -> int:
        """Size of the KV cache of one engine."""
        return self.num_blocks * self.slot_bytes

    def __post_init__(self) -> None:
        times = [name for name in self.__struct_fields__ if name.endswith("_s")]
        if any(getattr(self, name) < 0 for name in times) or not self.step_s > 0:
            raise ValueError("no time may be negative, and step_s must be above 0")
        if self.block_size < 1 or self.num_blocks < 2 or self.max_num_seqs < 1:
            raise ValueError("block_size and max_num_seqs are at least 1, num_blocks at least 2")
        if self.kv_token_bytes < 1:
            raise ValueError("kv_token_bytes is at least 1")
        if self.prefill_chunk_tokens < 0:
            raise ValueError("prefill_chunk_tokens is not negative")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens is at least max_num_seqs")


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The times of a profile in picoseconds."""

    step: int
    prefill_request: int
    prefill_token: int
    prefill_context: int
    decode_request: int
    decode_context: int
    transfer: int
    transfer_token: int
    load: int
    load_token: int

    @classmethod
    def of(cls, profile: Profile) -> StepTimes:
        """Convert the times of a profile from seconds."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(round(getattr(profile, f"{name}_s") * PS) for name in names))

    def decode_ps(self, requests: int, context: int) -> int:
        """The part of a step's time for decoding.

        Args:
            requests: number of requests that decode.
            context: sum of their tokens in the cache.
        """
        return self.decode_request * requests + self.decode_context * context

    def decode_steps_ps(self, steps: int, requests: int, context: int) -> int:
        """The time of several steps that only decode; arguments as of `decode_ps`.

        Each step adds a token of each request to the cache.
        """
        grown = requests * (steps * (steps - 1) // 2)
        return steps * (self.step + self.decode_ps(requests, context)) + self.decode_context * grown

    def prefill_ps(self, tokens: int, before: int) -> int:
        """The part of a step's time for `tokens` tokens of a prompt, after `before` tokens of
        it."""
        pairs = tokens * before + tokens * (tokens - 1) // 2
        return self.prefill_request + self.prefill_token * tokens + self.prefill_context * pairs

    def transfer_ps(self, tokens: int) -> int:
        """The time to transfer this number of tokens of a prompt to another engine."""
        return self.transfer + self.transfer_token * tokens if tokens else 0

    def load_ps(self, tokens: int) -> int:
        """The time to load this number of tokens of a prompt from the host cache."""
        return self.load + self.load_token * tokens


def built_in() -> list[str]:
    """Names of the profiles that come with the package."""
    return sorted(
        entry.name.removesuffix(SUFFIX)
        for entry in BUILT_IN.iterdir()
        if entry.name.endswith(SUFFIX)
    )


@cache
def load(name: str) -> Profile:
    """The built-in profile of that name, or the one in that file.

    Raises:
        UsageError: there is none, or it is not valid.
    """
    if name in built_in():
        data = BUILT_IN.joinpath(name + SUFFIX).read_bytes()
    else:
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            raise UsageError(
                f"no engine profile {name!r}: neither a file nor one of {', '.join(built_in())}."
            ) from error
    try:
        return msgspec.json.decode(data, type=Profile)
    except msgspec.MsgspecError as error:
        raise UsageError(f"the engine profile {name!r} is not valid: {error}.") from error
