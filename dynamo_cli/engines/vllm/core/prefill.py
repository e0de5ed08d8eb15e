"""Requests that are prefilled in one engine and decoded in another."""

from __future__ import annotations

import json
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreRequest

LOST = "lost"


def is_suitable(request: EngineCoreRequest) -> bool:
    """Whether a request can be prefilled elsewhere.

    Prompts that are not tokens alone, and answers that tell of the prompt, need one engine.
    """
    params = request.sampling_params
    return (
        params is not None
        and request.prompt_embeds is None
        and not request.mm_features
        and not params.skip_reading_prefix_cache
        and params.prompt_logprobs is None
    )


def as_prefill(request: EngineCoreRequest, job_id: str, owner: int, skip_tokens: int) -> None:
    """Turn a request into one that fills the cache and gives one token that nobody sees.

    Args:
        owner: the decode worker that will take the blocks.
        skip_tokens: of the prompt, that it has already.
    """
    transfer = {
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
        "transfer_id": job_id,
        "owner": owner,
        "skip_tokens": skip_tokens,
    }
    request.request_id = job_id
    request.sampling_params = SamplingParams(
        temperature=0,
        max_tokens=1,
        min_tokens=1,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        extra_args={"kv_transfer_params": transfer},
    )


class Prefills:
    """Prefills of one engine that are over, until the process around hands them over.

    The decode side can hear of them at once: it waits itself for blocks still being copied.
    """

    def __init__(self) -> None:
        self._ended: list[tuple[str, bytes, str]] = []

    def finished(self, job_id: str, params: dict[str, Any] | None) -> None:
        """The engine is done with a prompt."""
        failed = LOST if params is None else str(params.get("failed", ""))
        self._ended.append((job_id, b"" if failed else json.dumps(params).encode(), failed))

    def take(self) -> list[tuple[str, bytes, str]]:
        """What ended since the last call: job, kv_transfer_params as JSON, and why it failed."""
        ended, self._ended = self._ended, []
        return ended
