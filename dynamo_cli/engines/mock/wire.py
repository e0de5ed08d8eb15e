"""The parts of vLLM's messages that a simulated engine reads and writes.

The messages travel in vLLM's own msgpack encoding. These structs have the first fields of vLLM's
classes, under the same names, so that the worker of a simulated engine does not import vLLM. A test
compares them.
"""

from __future__ import annotations

from typing import Any

import msgspec

STOP, LENGTH = 0, 1
"""Values of vLLM's ``FinishReason``."""

QUEUED, SCHEDULED = 1, 2
"""Values of vLLM's ``EngineCoreEventType``."""


class Sampling(msgspec.Struct):
    """vLLM's ``SamplingParams``."""

    max_tokens: int | None = 16
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    structured_outputs: Any = None
    skip_reading_prefix_cache: bool | None = None


class CoreRequest(msgspec.Struct, array_like=True):
    """vLLM's ``EngineCoreRequest``."""

    request_id: str
    prompt_token_ids: list[int] | None
    mm_features: Any
    sampling_params: Sampling | None
    pooling_params: Any
    arrival_time: float
    lora_request: Any
    cache_salt: str | None
    data_parallel_rank: int | None
    prompt_embeds: Any = None
    prompt_is_token_ids: Any = None
    client_index: int = 0
    current_wave: int = 0
    priority: int = 0
    trace_headers: Any = None
    resumable: bool = False
    external_req_id: str | None = None


class CoreEvent(msgspec.Struct):
    """``EngineCoreEvent``; `timestamp` is in seconds on the monotonic clock."""

    type: int
    timestamp: float


class PrefillStats(msgspec.Struct):
    """``PrefillStats``: how the prompt was computed."""

    num_prompt_tokens: int
    num_computed_tokens: int
    num_cached_tokens: int
    num_local_cached_tokens: int
    num_external_cached_tokens: int


class Output(msgspec.Struct, array_like=True, omit_defaults=True):
    """vLLM's ``EngineCoreOutput``."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: None = None
    new_prompt_logprobs_tensors: None = None
    pooling_output: None = None
    finish_reason: int | None = None
    stop_reason: int | str | None = None
    events: list[CoreEvent] | None = None
    kv_transfer_params: None = None
    ec_transfer_params: None = None
    trace_headers: None = None
    prefill_stats: PrefillStats | None = None


class CoreOutputs(msgspec.Struct, array_like=True, omit_defaults=True):
    """vLLM's ``EngineCoreOutputs``."""

    engine_index: int = 0
    outputs: list[Output] = []
