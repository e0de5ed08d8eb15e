"""Goes on with a stream whose processor was lost, after the last event that its client has.

vLLM's serving class gets the same request again. First the outputs that the lost processor had
received from engines are replayed to it, one after the other. It makes the same events from them as
before, and these are not sent again. Then the engine requests that have not ended are sent to
workers, with the tokens that they have produced.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import numpy as np
import torch
from vllm.entrypoints.openai.completion import serving as completions
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine import EngineCoreOutput, EngineCoreRequest, FinishReason
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import OutputProcessor, RequestState
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.outputs import LogprobsLists, LogprobsTensors

from dynamo_cli.engines.vllm.front.direct import Generation
from dynamo_cli.engines.vllm.front.given import Part, groups
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.errors import PeerLost
from dynamo_cli.messages.request import Endpoint, Resume

Outputs = AsyncGenerator[RequestOutput, None]
Merged = AsyncGenerator[tuple[int, RequestOutput], None]
PlaceRequest = Callable[[EngineCoreRequest], Coroutine[Any, Any, None]]

AT_ONCE = 16
"""Number of outputs, 70 us each, that are replayed before other tasks of the event loop run."""

DIRECT = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES)
"""Endpoints whose streams may be `Direct` ones."""

_FINISHES = {str(reason): reason for reason in FinishReason} | {"": None}


class StreamReplay:
    """Replays the outputs of a lost processor to one stream, then lets it go on.

    Engine requests that vLLM makes during the replay are held back until it is over.

    Args:
        resume: how far the stream had come.
        trace: the trace of the request.
        processor: vLLM's output processor, which gets the outputs as if engines had sent them.
        place: has a worker chosen for an engine request, and sends it there.
    """

    def __init__(
        self, resume: Resume, trace: RequestTrace, processor: OutputProcessor, place: PlaceRequest
    ) -> None:
        self._resume = resume
        self._trace = trace
        self._processor = processor
        self._place = place
        self._unsent = resume.chunks
        self._size = 0
        self._exact = True
        self._calls: dict[str, int] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._held: list[EngineCoreRequest] = []
        self._over: dict[int, int] = {}  # by call: length of a prompt whose answers have all ended
        self._output: dict[str, array[int]] = defaultdict(lambda: array("i"))
        self._groups = deque(groups(resume.output))
        for group in self._groups:
            for part in group:
                trace.given.begun(part)

    @property
    def running(self) -> bool:
        """Whether outputs of the lost processor are still to be replayed."""
        return bool(self._groups)

    @property
    def held(self) -> list[str]:
        """AsyncLLM's ids of the engine requests that are held back until the replay is over."""
        return [request.request_id for request in self._held]

    def output_of(self, request_id: str) -> array[int]:
        """Return the tokens that an engine request had produced before it came here."""
        return self._output[request_id]

    # -- outputs ---------------------------------------------------------------------------

    async def outputs(self, name: str, call: int, stream: Outputs) -> Outputs:
        """Yield the outputs for one prompt: those of the lost processor, then those of engines.

        Args:
            name: the id that vLLM gives to the request for this prompt.
            call: number of the prompt within the API request.
            stream: vLLM's own generator; it gives the engine request to the engine client.
        """
        self._calls[name] = call
        try:
            async for output in stream:
                replayed = self._is_next(call)
                yield output
                if replayed:
                    # The caller asks for the next output, so it has made the events of this one.
                    await self._go_on()
        finally:
            await stream.aclose()

    def takes(self, request: EngineCoreRequest) -> bool:
        """Hold back an engine request if outputs are still to be replayed; return whether it is."""
        if not self._groups:
            return False
        call = self._calls[str(request.external_req_id)]
        if request.request_id in self._processor.request_states:  # otherwise it has ended already
            self._held.append(request)
        if (call, 0) not in self._names:
            self._begin(call, str(request.external_req_id))
        return True

    def _of(self, call: int) -> list[str]:
        return [name for (of, _), name in self._names.items() if of == call]

    def _begin(self, call: int, external: str) -> None:
        for request_id in self._processor.external_req_ids[external]:
            state = self._processor.request_states[request_id]
            self._names[call, state.request_index] = request_id
        if self._is_next(call):
            self._feed(self._groups[0])

    def _is_next(self, call: int) -> bool:
        return bool(self._groups) and self._groups[0][0].call == call

    async def _go_on(self) -> None:
        self._groups.popleft()
        if len(self._groups) % AT_ONCE == 0:
            await asyncio.sleep(0)  # other streams go on meanwhile
        if not self._groups:
            await self._release()
        elif (self._groups[0][0].call, 0) in self._names:
            self._feed(self._groups[0])

    def _feed(self, group: list[Part]) -> None:
        """Give one group of outputs to vLLM's output processor, as if an engine had sent it."""
        states = self._processor.request_states
        named = [(part, self._names[part.call, part.choice]) for part in group]
        known = [(part, states[name]) for part, name in named if name in states]
        self._processor.process_outputs([self._engine_output(*one) for one in known])
        for part, state in known:
            self._note(part, state)

    def _note(self, part: Part, state: RequestState) -> None:
        trace = self._trace
        trace.output_tokens += len(part.tokens)
        self._output[state.request_id].extend(part.tokens)
        if part.counts is not None:
            trace.cached_tokens += part.counts[0]
        if state.request_id not in self._processor.request_states:  # it has ended
            trace.ended(part.finish or "stop")
            self._held = [one for one in self._held if one.request_id != state.request_id]
            if not any(name in self._processor.request_states for name in self._of(part.call)):
                self._over[part.call] = state.prompt_len
                trace.prompt_tokens = sum(self._over.values())

    def _engine_output(self, part: Part, state: RequestState) -> EngineCoreOutput:
        output = EngineCoreOutput(
            state.request_id,
            part.tokens,
            finish_reason=_FINISHES[part.finish],
            stop_reason=part.stop_token,
        )
        if part.counts is not None:
            cached, created = part.counts
            output.prefill_stats = PrefillStats(
                num_cached_tokens=cached, num_cache_creation_tokens=created
            )
        self._add_logprobs(output, state, first=part.counts is not None)
        return output

    def _add_logprobs(self, output: EngineCoreOutput, state: RequestState, *, first: bool) -> None:
        """Add logprobs of 0 where the serving class expects some: the real ones were not kept.

        The events then differ in their bytes from those that the client has, and `has` does not
        compare their length.
        """
        processor = state.logprobs_processor
        assert processor is not None
        if processor.num_logprobs is not None and output.new_token_ids:
            self._exact = False
            ids = np.array(output.new_token_ids).reshape(-1, 1)
            output.new_logprobs = LogprobsLists(ids, np.zeros(ids.shape), np.ones(len(ids), int))
        if processor.num_prompt_logprobs is not None and first:
            self._exact = False
            ids = torch.tensor(state.prompt_token_ids or [0])[1:].reshape(-1, 1)
            ones = torch.ones(len(ids), dtype=torch.int)
            output.new_prompt_logprobs_tensors = LogprobsTensors(ids, torch.zeros(ids.shape), ones)

    async def _release(self) -> None:
        """Send the engine requests that have not ended to workers."""
        held, self._held = self._held, []
        for request in held:
            await self._place(request)

    # -- events ----------------------------------------------------------------------------

    def has(self, text: str) -> bool:
        """Whether the client has this event already; must be called for each event, in order.

        Raises:
            PeerLost: the events that it has were made again with another total length, so that the
                stream cannot go on.
        """
        if not self._unsent:
            return False
        self._unsent -= 1
        self._size += len(text.encode())
        if not self._unsent:
            self._check(same=not self._exact or self._size == self._resume.size)
        return True

    def ended(self) -> None:
        """Check that the answer is complete; must be called after its last event.

        Raises:
            PeerLost: there were fewer events than the client has.
        """
        self._check(same=not self._unsent)

    def _check(self, *, same: bool) -> None:
        if not same:
            self._trace.failure = PeerLost(self._resume.failure, retry_after_s=1)
            self._trace.error = NOT_REPRODUCED
            raise self._trace.failure


NOT_REPRODUCED = "not_reproduced"
"""Name in the counters of this failure: the events of a stream could not be made again."""


def install(llm: AsyncLLM) -> None:
    """Wrap `llm`, so that the outputs of streams are packed, and those of a `StreamReplay` come
    first."""
    llm.generate = _wrapped(llm.generate)
    if not hasattr(completions.merge_async_iterators, "packs"):
        completions.merge_async_iterators = _merging(completions.merge_async_iterators)


def _wrapped(generate: Callable[..., Outputs]) -> Callable[..., Outputs | Generation]:
    def wrapped(
        prompt: Any, sampling_params: SamplingParams, request_id: str, **more: Any
    ) -> Outputs | Generation:
        stream = generate(prompt, sampling_params, request_id, **more)
        trace = current_trace.get(None)
        if trace is None or sampling_params.output_kind is not RequestOutputKind.DELTA:
            return stream
        call = trace.calls
        trace.calls += 1
        if trace.replay is not None:
            stream = trace.replay.outputs(request_id, call, stream)
        # /v1/completions merges the streams of several prompts and receives the outputs in the
        # order of the merge, so they are packed there.
        if trace.path != Endpoint.COMPLETIONS:
            stream = _packed(trace, call, stream)
        if trace.path not in DIRECT or trace.replay is not None:
            return stream
        return Generation(stream, call, (request_id, prompt, sampling_params), more)

    return wrapped


async def _packed(trace: RequestTrace, call: int, stream: Outputs) -> Outputs:
    try:
        async for output in stream:
            pack(trace, call, output)
            yield output
    finally:
        await stream.aclose()


def pack(trace: RequestTrace, call: int, output: RequestOutput) -> None:
    """Pack an output that a serving class receives, unless the frontend has it already."""
    if trace.replay is None or not trace.replay.running:
        trace.given.add(call, output)


def _merging(merge: Callable[..., Merged]) -> Callable[..., Merged | Generation]:
    def packs(*streams: Outputs | Generation) -> Merged | Generation:
        trace, first = current_trace.get(None), streams[0]
        merged = merge(*(one.stream if isinstance(one, Generation) else one for one in streams))
        if trace is not None and trace.calls:
            merged = _packed_merge(trace, merged)
        if len(streams) == 1 and isinstance(first, Generation):
            return first._replace(stream=merged)
        return merged

    packs.packs = True  # type: ignore[attr-defined]
    return packs


async def _packed_merge(trace: RequestTrace, merged: Merged) -> Merged:
    try:
        async for call, output in merged:
            pack(trace, call, output)
            yield call, output
    finally:
        await merged.aclose()
