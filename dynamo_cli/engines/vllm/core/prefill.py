"""Says which requests one engine can prefill for another, and makes the prefill of one."""

from __future__ import annotations

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreRequest


def is_suitable(request: EngineCoreRequest) -> bool:
    """Whether another engine can prefill the prompt of a request.

    It cannot if the prompt has images or embeddings, or if the answer has its log probabilities.
    """
    params = request.sampling_params
    return (
        params is not None
        and request.prompt_embeds is None
        and not request.mm_features
        and not params.skip_reading_prefix_cache
        and params.prompt_logprobs is None
    )


def as_prefill(request: EngineCoreRequest, job_id: str) -> None:
    """Turn a request into one that computes the prompt and gives one token, which is dropped.

    Args:
        request: the request as the processor made it; it is changed.
        job_id: the id that it gets.
    """
    transfer = {  # for NIXL
        "do_remote_decode": True,
        "do_remote_prefill": False,
        "remote_engine_id": None,
        "remote_block_ids": None,
        "remote_host": None,
        "remote_port": None,
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
