"""Runs each kind of sampling once, before requests come.

vLLM compiles its model when it starts. It compiles other parts only when they are first used:
functions under `torch.compile`, and on GPUs the kernels of the sampler. That takes seconds, in
which all streams of the engine would stall.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from dynamo_cli.engines.vllm import refusals
from dynamo_cli.engines.vllm.core.vocabulary import Vocabulary
from dynamo_cli.engines.vllm.options import arguments, environment
from dynamo_cli.errors import ResourceError

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "random": {},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.5},
    "top_k and top_p": {"top_k": 5, "top_p": 0.5},
    "min_p": {"min_p": 0.1},
    "seed": {"seed": 1},
    "penalties": {"presence_penalty": 0.1, "frequency_penalty": 0.1, "repetition_penalty": 1.1},
    "logit_bias": {"logit_bias": {1: 1.0}},
    "allowed_token_ids": {"allowed_token_ids": [1, 2]},
    "bad_words": {"bad_words": [[1, 2]]},
    "min_tokens": {"min_tokens": 2},
    "logprobs": {"logprobs": 2},
    "prompt_logprobs": {"prompt_logprobs": 2, "logprobs": 0},
    "logprob_token_ids": {"logprob_token_ids": [1, 2]},
    "json": {"structured_outputs": {"json": '{"type": "object"}'}},
}
"""Sampling parameters by name; each set runs a different part of the sampler."""

PROMPT = (1, 2, 3, 4)
OUTPUT_TOKENS = 3
"""Prompt and output together have fewer tokens than a block, so that no block is cached."""

POLL_S = 0.001
"""Poll interval while a grammar is being compiled."""


def needed() -> bool:
    """Whether anything is compiled when it is first used; not so on a CPU without compilation."""
    return environment.compiles() or not current_platform.is_cpu()


def run(core: EngineCore, config: VllmConfig, vocabulary: Vocabulary | None) -> None:
    """Run requests of each kind, first alone and then all at once; the engine must have no others.

    Args:
        core: the engine.
        config: its configuration.
        vocabulary: its tables for grammars; None for a prefill worker, which only samples greedily.

    Raises:
        ResourceError: the sampler cannot be compiled.
    """
    if config.model_config.runner_type != "generate" or config.model_config.is_encoder_decoder:
        return
    names = ["greedy"] if vocabulary is None else list(_possible(config, vocabulary))
    try:
        backend = vocabulary.name if vocabulary is not None else ""
        for name in names:
            _ask(core, [name], backend)
        _ask(core, names, backend)
    # Whatever a compiler raises ends the start, with its own message.
    except Exception as error:
        raise ResourceError(
            f"the engine cannot prepare its sampler: {refusals.reason(error)}. "
            "Without a C++ compiler, give --enforce-eager."
        ) from error
    if vocabulary is not None:
        vocabulary.unchoose()


def _possible(config: VllmConfig, vocabulary: Vocabulary) -> Iterator[str]:
    for name in KINDS:
        if name == "prompt_logprobs" and not arguments.scores_prompts(config):
            continue
        if name == "json" and not vocabulary.ready:
            continue
        yield name


def _ask(core: EngineCore, names: list[str], backend: str) -> None:
    for request in _requests(names, backend):
        core.add_request(*core.preprocess_add_request(request))
    while core.scheduler.has_requests():
        _, ran = core.step_fn()
        core.post_step(ran)
        if not ran:
            time.sleep(POLL_S)  # a grammar is being compiled


def _requests(names: list[str], backend: str) -> Iterator[EngineCoreRequest]:
    for name in names:
        yield EngineCoreRequest(
            request_id=f"warm-up-{name}",
            prompt_token_ids=list(PROMPT),
            mm_features=None,
            sampling_params=_params(KINDS[name], backend),
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )


def _params(kind: dict[str, Any], backend: str) -> SamplingParams:
    """Sampling parameters as a processor would complete them, with the backend of grammars."""
    chosen = dict(kind)
    grammar, bad_words = chosen.pop("structured_outputs", None), chosen.pop("bad_words", None)
    params = SamplingParams(max_tokens=OUTPUT_TOKENS, ignore_eos=True, detokenize=False, **chosen)
    if grammar is not None:
        params.structured_outputs = StructuredOutputsParams(**grammar)
        params.structured_outputs._backend = backend
    params._bad_words_token_ids = bad_words
    return params
