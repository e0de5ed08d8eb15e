"""Lets an engine go on with requests that another engine has begun to answer.

vLLM does nearly the same with a request that it has preempted: the request keeps its output tokens,
and its KV blocks are computed again. The only difference is that a request which moves here is new
to this engine. Its tokens are given to the scheduler's request as output tokens, not as a longer
prompt, so that limits, penalties and block hashes stay right. Three parts of vLLM expect that a new
request has no output tokens, and are adapted here: the compilation of grammars, the first of vLLM's
two model runners, and the statistics, which must not count the prompt of the request again.
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

Preprocessed = tuple[Any, int]
"""What vLLM's preprocessing returns: the scheduler's request, and its data-parallel wave."""


def preprocess(core: EngineCore, request: EngineCoreRequest, tokens: list[int]) -> Preprocessed:
    """Make the scheduler's request for a request that has these output tokens already.

    Raises:
        InternalError: its answer is complete already, or cannot have tokens.
        Exception: whatever vLLM raises.
    """
    _check(core, request, len(tokens))
    # The client got the prompt's log probabilities with the first token.
    request.sampling_params.prompt_logprobs = None
    manager = core.structured_output_manager
    begin_grammar = manager.grammar_init
    # `grammar_init` starts a thread that needs the output tokens: call it after they are added.
    manager.grammar_init = _nothing
    try:
        begun, wave = core.preprocess_add_request(request)
    finally:
        manager.grammar_init = begin_grammar
    begun.append_output_token_ids(tokens)
    begun.prefill_stats = _NoPrompt()
    begin_grammar(begun)
    return begun, wave


def _nothing(_: Any) -> None:
    """Stand in for `grammar_init`."""


def _check(core: EngineCore, request: EngineCoreRequest, count: int) -> None:
    params = request.sampling_params
    if params is None:
        raise InternalError("a request without sampling cannot have output tokens.")
    prompt = length_from_prompt_token_ids_or_embeds(request.prompt_token_ids, request.prompt_embeds)
    length = prompt + count
    if count >= params.max_tokens or length >= core.vllm_config.model_config.max_model_len:
        raise InternalError(f"the answer is complete already, with {count} tokens.")


class _NoPrompt(PrefillStats):  # type: ignore[misc]
    """Marks a request that is resumed, whose prompt was counted by the engine that began it.

    Its truth value is False, so that vLLM's scheduler does not fill it in. The scheduler would also
    assert that no more tokens are cached than the prompt has, but output tokens may be cached too.
    """

    def __bool__(self) -> bool:
        return False


def drop_stats(output: EngineCoreOutput) -> None:
    """Remove the prefill statistics from the first output of a request that is resumed here."""
    if isinstance(output.prefill_stats, _NoPrompt):
        output.prefill_stats = None


def queued(request: Any) -> None:
    """Drop the events of a request that is resumed: the engine that began it has sent its times."""
    if request.num_output_tokens:
        request.events.clear()


def count_hits_of_new(core: EngineCore) -> None:
    """Do not count requests that are resumed in the queries and hits of the prefix cache.

    vLLM itself does not count requests that it has preempted.
    """
    manager = core.scheduler.kv_cache_manager
    record = manager.record_prefix_cache_stats

    def record_new(request: Any, num_hits: int) -> None:
        if not request.num_output_tokens or request.num_preemptions:
            record(request, num_hits)

    manager.record_prefix_cache_stats = record_new


def advance_grammar(manager: Any, request: Any, grammar: Any) -> None:
    """Advance a new grammar, and the reasoning parser of its request, over the output tokens.

    The tokens are given one by one, as if they were generated now: whether a token ends the
    reasoning depends on the tokens before it.

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
    """Adapt vLLM's first model runner. Must be called before the engine or rank is built.

    The second model runner needs no change: it takes even preempted requests as new ones.
    """
    if vllm_config.use_v2_model_runner or gpu_model_runner.CachedRequestState is _RunnerRequest:
        return
    NewRequestData.from_request = classmethod(_with_outputs(NewRequestData.from_request.__func__))
    _RunnerRequest.drafts = vllm_config.speculative_config is not None
    gpu_model_runner.CachedRequestState = _RunnerRequest
    runner = gpu_model_runner.GPUModelRunner
    runner._update_states = _taking_outputs(runner._update_states)


def _with_outputs(from_request: Callable[..., Any]) -> Callable[..., Any]:
    """Add the output tokens of a request to what is sent to all ranks about it."""

    def new_request_data(cls: Any, request: Any, *args: Any, **more: Any) -> Any:
        data = from_request(cls, request, *args, **more)
        if request.num_output_tokens:
            data.prefill_token_ids = list(request.all_token_ids)
        return data

    return new_request_data


_outputs: dict[str, list[int]] = {}
"""Output tokens of the new requests of the step that the model runner begins, by id."""


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
    """A request in the model runner, which may have output tokens from the start."""

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
            # Each draw adds 4 to the offset; the runner subtracts 4 to undo a draw.
            self.generator.set_offset(4 * count)


class _CpuGenerator(torch.Generator):  # type: ignore[misc]
    """The random numbers of a request with a seed on a CPU: one for each of its output tokens.

    A step that computes only a part of a prompt draws a number too, and vLLM then sets the offset
    of the generator back. torch's CPU generator has no offset, so the step would fail. Here the
    position in the sequence follows from the number of output tokens.
    """

    _request: Callable[[], _RunnerRequest | None]
    _seed: int

    @classmethod
    def of(cls, request: _RunnerRequest, seed: int) -> _CpuGenerator:
        """Return a generator for this request, which replaces its own."""
        generator = cls()
        generator._request = weakref.ref(request)
        generator._seed = seed
        generator.set_offset(0)
        return generator

    def get_offset(self) -> int:
        """Return any number: vLLM only uses it to undo a draw."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Go to the position after the output tokens of the request; `offset` is not used."""
        request = self._request()
        assert request is not None
        count = len(request.output_token_ids)
        if count and request.drafts:
            self.manual_seed(_seed_at(self._seed, count))
        else:
            self.manual_seed(self._seed)
            torch.randint(0, 2**31, (count,), generator=self)


def _seed_at(seed: int, count: int) -> int:
    """Return another seed for what comes after `count` tokens.

    With speculative decoding it is unknown how many numbers were drawn for these tokens.
    """
    return int.from_bytes(hashlib.sha256(f"{seed} {count}".encode()).digest()[:7])
