"""Requests that another engine has begun to answer.

vLLM knows the case: a request that it has preempted keeps its output tokens, and everything is
computed again. A request that moves here differs in one thing: it is new to this engine. So its
tokens are given to the scheduler's request as its output, not as a longer prompt: limits, penalties
and block hashes then follow. Three parts of vLLM expect that a new request has none, and are told
here: the compiler of grammars, the first of the two model runners, and the statistics, in which
such a request is not a prompt of a client.
"""

from __future__ import annotations

import dataclasses
import hashlib
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.utils import length_from_prompt_token_ids_or_embeds
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.worker import gpu_model_runner
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from dynamo_cli.errors import InternalError

Begin = tuple[Any, int]
"""vLLM's request, and its wave."""


def preprocess(core: EngineCore, request: EngineCoreRequest, tokens: list[int]) -> Begin:
    """Make vLLM's request of one that has these output tokens already.

    Raises:
        InternalError: it is over, or cannot have output tokens.
        Exception: whatever vLLM raises.
    """
    _check(core, request, len(tokens))
    # It was answered with the first token.
    request.sampling_params.prompt_logprobs = None
    manager = core.structured_output_manager
    begin_grammar = manager.grammar_init
    # A thread begins with the grammar at once, and needs the tokens.
    manager.grammar_init = _nothing
    try:
        begun, wave = core.preprocess_add_request(request)
    finally:
        del manager.grammar_init
    begun.append_output_token_ids(tokens)
    begun.prefill_stats = _NoPrompt()
    begin_grammar(begun)
    return begun, wave


def _nothing(_: Any) -> None:
    """Stand in for what is done later."""


def _check(core: EngineCore, request: EngineCoreRequest, count: int) -> None:
    params = request.sampling_params
    if params is None:
        raise InternalError("a request without sampling cannot have output tokens.")
    prompt = length_from_prompt_token_ids_or_embeds(request.prompt_token_ids, request.prompt_embeds)
    length = prompt + count
    if count >= params.max_tokens or length >= core.vllm_config.model_config.max_model_len:
        raise InternalError(f"the answer is complete already, with {count} tokens.")


class _NoPrompt(PrefillStats):  # type: ignore[misc]
    """Says nothing of a prompt, which was counted where the answer began.

    It is false, so that vLLM does not fill it: more than the prompt may be in the cache.
    """

    def __bool__(self) -> bool:
        return False


def drop_stats(output: EngineCoreOutput) -> None:
    """Remove what marks the first output here of such a request: it is not the first one."""
    if isinstance(output.prefill_stats, _NoPrompt):
        output.prefill_stats = None


def queued(request: Any) -> None:
    """Drop what tells the processor that a request waits, if its answer has begun elsewhere."""
    if request.num_output_tokens:
        request.events.clear()


def count_hits_of_new(core: EngineCore) -> None:
    """Leave such requests out of the hits of the prefix cache, as vLLM does with preempted ones."""
    manager = core.scheduler.kv_cache_manager
    record = manager.record_prefix_cache_stats

    def record_new(request: Any, num_hits: int) -> None:
        if not request.num_output_tokens or request.num_preemptions:
            record(request, num_hits)

    manager.record_prefix_cache_stats = record_new


def advance_grammar(manager: Any, request: Any, grammar: Any) -> None:
    """Let a new grammar, and its request's reasoning parser, see the output tokens.

    The tokens are given one by one, as if they were generated now: where reasoning ends depends on
    what came before.

    Raises:
        InternalError: the grammar does not allow these tokens.
    """
    original = request.structured_output_request
    state = dataclasses.replace(original, _grammar=grammar)
    tokens = list(request.all_token_ids[: request.num_prompt_tokens])
    replay = SimpleNamespace(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        all_token_ids=tokens,
        structured_output_request=state,
        use_structured_output=True,
    )
    for token in request.output_token_ids:
        tokens.append(token)
        if not manager.accept_tokens(replay, [token]):
            raise InternalError("the grammar does not allow what was answered already.")
    original.reasoning_ended, original.reasoner = state.reasoning_ended, state.reasoner


# -- the model runner ------------------------------------------------------------------------------


def install(vllm_config: VllmConfig) -> None:
    """Prepare this process, which runs the model; before its engine or rank is built.

    vLLM's second model runner needs nothing: it takes preempted requests as new ones.
    """
    if vllm_config.use_v2_model_runner or gpu_model_runner.CachedRequestState is _RunnerRequest:
        return
    NewRequestData.from_request = classmethod(_with_outputs(NewRequestData.from_request.__func__))
    _RunnerRequest.drafts = vllm_config.speculative_config is not None
    gpu_model_runner.CachedRequestState = _RunnerRequest
    runner = gpu_model_runner.GPUModelRunner
    runner._update_states = _taking_outputs(runner._update_states)


def _with_outputs(from_request: Callable[..., Any]) -> Callable[..., Any]:
    """Send the output tokens of a request along with it, to all ranks."""

    def new_request_data(cls: Any, request: Any, *args: Any, **more: Any) -> Any:
        data = from_request(cls, request, *args, **more)
        if request.num_output_tokens:
            data.prefill_token_ids = list(request.all_token_ids)
        return data

    return new_request_data


_outputs: dict[str, list[int]] = {}
"""Output tokens of the requests that the model runner is about to take, by id."""


def _taking_outputs(update: Callable[..., Any]) -> Callable[..., Any]:
    def update_states(self: Any, scheduled: Any) -> Any:
        for new in scheduled.scheduled_new_reqs:
            if new.prefill_token_ids is not None:
                _outputs[new.req_id] = new.prefill_token_ids[new.prompt_len :]
        try:
            return update(self, scheduled)
        finally:
            _outputs.clear()

    return update_states


class _RunnerRequest(CachedRequestState):  # type: ignore[misc]
    """A request in the model runner, which may begin with output tokens."""

    generator: torch.Generator | None
    output_token_ids: list[int]
    drafts = False
    """Whether this engine decodes speculatively."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.output_token_ids = _outputs.get(self.req_id, self.output_token_ids)
        if self.generator is None:
            return
        if self.generator.device.type == "cpu":
            self.generator = _CpuGenerator.of(self, self.generator.initial_seed())
        elif (count := len(self.output_token_ids)) and self.drafts:
            self.generator.manual_seed(_seed_at(self.generator.initial_seed(), count))
        elif count:
            # A draw is 4 steps: the runner counts so too, when it takes one back.
            self.generator.set_offset(4 * count)


class _CpuGenerator(torch.Generator):  # type: ignore[misc]
    """The random numbers of a request with a seed: one for each of its output tokens.

    A step that computes only a part of a prompt draws a number too, and vLLM then sets the
    generator back. It cannot do that with one on the CPU, where the whole step would fail.
    """

    _request: Callable[[], _RunnerRequest | None]
    _seed: int

    @classmethod
    def of(cls, request: _RunnerRequest, seed: int) -> _CpuGenerator:
        """The generator of this request, in place of the one that it has."""
        generator = cls()
        generator._request = weakref.ref(request)
        generator._seed = seed
        generator.set_offset(0)
        return generator

    def get_offset(self) -> int:
        """Any number: vLLM only asks in order to take one draw back."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Go to where the output tokens of the request have brought it."""
        request = self._request()
        assert request is not None
        count = len(request.output_token_ids)
        if count and request.drafts:
            self.manual_seed(_seed_at(self._seed, count))
        else:
            self.manual_seed(self._seed)
            torch.randint(0, 2**31, (count,), generator=self)


def _seed_at(seed: int, count: int) -> int:
    """Another seed for what comes after `count` tokens, where it is unknown how much was drawn."""
    return int.from_bytes(hashlib.sha256(f"{seed} {count}".encode()).digest()[:7])
