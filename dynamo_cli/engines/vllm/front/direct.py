"""Streams of plain chats: each step of an engine becomes an event at once.

vLLM passes an output through a queue, a task and several generators to its serving class, which
makes three objects and their JSON for each token. Here the serving class begins the stream, and its
events are made where vLLM would have put the output into the queue, from parts that stay the same.
They are byte for byte the events of vLLM, which makes them for every other request, and when a
stream of another processor goes on here (`resume.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import orjson
from vllm.entrypoints.openai.chat_completion import serving as chats
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionStreamResponse
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.outputs import RequestOutput
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.engine.output_processor import OutputProcessor, OutputProcessorOutput, RequestState

from dynamo_cli.engines.vllm.front.outgoing import Outgoing
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace

DONE = b"data: [DONE]\n\n"
KIND = "chat.completion.chunk"

_TOLD_AS_THEY_ARE = (VLLMClientError, GracefulHTTPError, EngineDeadError)


class Generation(NamedTuple):
    """A call of AsyncLLM's `generate`, which begins when the stream is read.

    Attributes:
        stream: what `generate` returned.
        call: number of the prompt within the API request.
        arguments: the arguments of `AsyncLLM.add_request`: prompt, sampling parameters, id.
        more: its keyword arguments.
    """

    stream: AsyncIterator[RequestOutput]
    call: int
    arguments: tuple[str, Any, Any]
    more: dict[str, Any]

    def __aiter__(self) -> AsyncIterator[RequestOutput]:
        return self.stream


class Direct:
    """The stream of one chat; AsyncLLM takes it for the queue of the engine request.

    Args:
        llm: runs the engine request.
        generation: the engine request.
        trace: the trace of the API request.
        serving: vLLM's serving object.
        request: the request as vLLM's class.
        words: id and creation time of the answer, and the name of the model.
        mm_tokens: tokens of its images and the like, by kind.
        fail: makes vLLM's events for an error that a stream of outputs raises.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        generation: Generation,
        trace: RequestTrace,
        serving: Any,
        request: Any,
        words: tuple[str, int, str],
        mm_tokens: dict[str, int] | None,
        fail: Callable[[AsyncIterator[RequestOutput]], AsyncIterator[str]],
    ) -> None:
        self._llm = llm
        self._generation = generation
        self._trace = trace
        self._serving = serving
        self._request = request
        self._words = words
        self._mm_tokens = mm_tokens
        self._fail = fail
        self._out: Outgoing
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._named = False
        self._tokens = 0
        answer_id, created, model = (orjson.dumps(word) for word in words)
        self._begin = (
            b'data: {"id":%b,"object":"chat.completion.chunk","created":%b,"model":%b,'
            b'"choices":[{"index":0,"delta":{' % (answer_id, created, model)
        )
        self._before = self._begin + b'"content":'

    async def run(self, out: Outgoing) -> AsyncIterator[str] | None:
        """Send the stream up to its end.

        Cancelling it aborts the request in its engine.

        Returns:
            vLLM's events for the error with which it ended, if it did.
        """
        self._out = out
        queue = None
        request_id, prompt, params = self._generation.arguments
        try:
            queue = await self._llm.add_request(request_id, prompt, params, **self._generation.more)
            self._attach(queue)
            await self._over
        except asyncio.CancelledError:
            if queue is not None:
                self._over.cancel()
                await self._llm.abort(queue.request_id, internal=True)
            raise
        except Exception as error:  # noqa: BLE001 - vLLM makes an event of it
            return self._fail(_raising(error))
        return None

    def _attach(self, queue: Any) -> None:
        """Take the place of vLLM's queue, and what is in it."""
        state = self._llm.output_processor.request_states.get(queue.request_id)
        if state is not None:
            state.queue = self
        if (output := queue.get_nowait()) is not None:
            self.put(output)

    # -- called by AsyncLLM -----------------------------------------------------------------

    def put(self, output: RequestOutput | Exception) -> None:
        """Send the events of an output, or end with an error."""
        if self._over.done():
            return
        try:
            if isinstance(output, Exception):
                raise output
            self._send(output)
        except Exception as error:  # noqa: BLE001 - it ends this stream, and no other one
            self._over.set_exception(error)

    def close(self) -> None:
        """Do nothing: AsyncLLM's queues have a task that they end."""

    # -- events -----------------------------------------------------------------------------

    def _send(self, output: RequestOutput) -> None:
        self._trace.given.add(self._generation.call, output)
        out, part = self._out, output.outputs[0]
        if not self._named:
            self._named = True
            out.event(self._role_event())
        self._serving._raise_if_error(part.finish_reason, self._words[0])
        if part.text or part.token_ids or self._tokens:
            self._tokens += len(part.token_ids)
            text = orjson.dumps(part.text)
            if part.finish_reason is None:
                out.event(self._before + text + _AFTER)
            else:
                out.event(self._last_event(text, part.finish_reason, part.stop_reason))
        if output.finished:
            self._end(output)

    def take(self, state: RequestState, output: EngineCoreOutput) -> bool:
        """Send the event of an output that only has new tokens; False if there is more in it."""
        if not self._tokens or not _is_plain(output) or self._over.done():
            return False
        detokenizer = state.detokenizer
        if detokenizer.stop or state.stream_interval > 1:
            return False
        tokens = output.new_token_ids
        detokenizer.update(tokens, False)
        text = detokenizer.get_next_output_text(False, True)
        self._tokens += len(tokens)
        self._trace.given.add_tokens(tokens)
        self._out.event(self._before + orjson.dumps(text) + _AFTER)
        return True

    def _role_event(self) -> bytes:
        role = orjson.dumps(self._serving.get_chat_request_role(self._request))
        return self._begin + b'"role":' + role + _AFTER_ROLE

    def _last_event(self, text: bytes, finish: str, stop: int | str | None) -> bytes:
        fingerprint = self._serving.system_fingerprint
        more = b""
        if fingerprint is not None and not _wants_usage(self._serving, self._request):
            more = b',"system_fingerprint":' + orjson.dumps(fingerprint)
        return b"%b%b%b%b%b%b%b%b}\n\n" % (
            *(self._before, text, b'},"logprobs":null,"finish_reason":', orjson.dumps(finish)),
            *(b',"stop_reason":', orjson.dumps(stop), b',"token_ids":null}]', more),
        )

    def _end(self, output: RequestOutput) -> None:
        if _wants_usage(self._serving, self._request):
            self._out.event(self._usage_event(output))
        self._out.event(DONE)
        self._over.set_result(None)

    def _usage_event(self, output: RequestOutput) -> bytes:
        prompt = len(output.prompt_token_ids or ()) + len(output.encoder_prompt_token_ids or ())
        usage = UsageInfo(
            prompt_tokens=prompt,
            completion_tokens=self._tokens,
            total_tokens=prompt + self._tokens,
            completion_tokens_details=None,
        )
        usage.prompt_tokens_details = chats._make_prompt_tokens_details(
            self._serving.enable_prompt_tokens_details,
            output.num_cached_tokens,
            output.num_cache_creation_tokens,
            self._mm_tokens,
        )
        metrics = None
        if (accepted := chats.build_spec_decoding_metrics(output)) is not None:
            metrics = chats.PerRequestMetrics(speculative_decoding=accepted)
        answer_id, created, model = self._words
        chunk = ChatCompletionStreamResponse(
            id=answer_id,
            object=KIND,
            created=created,
            choices=[],
            model=model,
            usage=usage,
            system_fingerprint=self._serving.system_fingerprint,
            metrics=metrics,
        )
        return f"data: {chunk.model_dump_json(exclude_unset=True, exclude_none=True)}\n\n".encode()


# -- installation ------------------------------------------------------------------------------


def install(llm: AsyncLLM, serving: Any) -> None:
    """Let `serving`, vLLM's object for chats, begin direct streams where it can."""
    if type(serving) is not chats.OpenAIServingChat:  # others make other events
        return
    processor = llm.output_processor
    processor.process_outputs = _taking(processor, processor.process_outputs)
    stream: Callable[..., AsyncIterator[str]] = serving.chat_completion_stream_generator

    def begin(
        request: Any, outputs: Any, answer_id: str, model: str, *args: Any, **more: Any
    ) -> Direct | AsyncIterator[str]:
        def fail(raising: AsyncIterator[RequestOutput]) -> AsyncIterator[str]:
            return stream(request, raising, answer_id, model, *args, **more)

        if not isinstance(outputs, Generation) or not is_common(serving, request):
            return fail(outputs)
        words = (answer_id, int(chats.time.time()), model)
        mm_tokens = more.get("mm_token_counts")
        return Direct(llm, outputs, current_trace.get(), serving, request, words, mm_tokens, fail)

    serving.chat_completion_stream_generator = begin


def is_common(serving: Any, request: Any) -> bool:
    """Whether the events of a stream have nothing but text, and its last ones usage."""
    _, continuous = chats.should_include_usage(
        request.stream_options, serving.enable_force_include_usage
    )
    return (
        (request.n or 1) == 1
        and serving.parser_cls is None
        and not serving.enable_log_outputs
        and not serving.enable_per_request_metrics
        and not (request.logprobs or request.echo or request.return_token_ids)
        and not (request.return_prompt_text or continuous)
    )


def _taking(
    processor: OutputProcessor, process: Callable[..., OutputProcessorOutput]
) -> Callable[..., OutputProcessorOutput]:
    """Return `process` for the outputs that direct streams do not take."""
    states = processor.request_states

    def run(
        outputs: list[EngineCoreOutput],
        timestamp: float | None = None,
        stats: Any = None,
        weight_version: str | None = None,
    ) -> OutputProcessorOutput:
        if stats is None and weight_version is None:
            outputs = [one for one in outputs if not _taken(states.get(one.request_id), one)]
        return process(outputs, timestamp, stats, weight_version)

    return run


def _taken(state: RequestState | None, output: EngineCoreOutput) -> bool:
    return state is not None and type(state.queue) is Direct and state.queue.take(state, output)


_AFTER = b'},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
_AFTER_ROLE = (
    b',"content":""},"logprobs":null,"finish_reason":null}],'
    b'"prompt_token_ids":null,"prompt_text":null}\n\n'
)


def _is_plain(output: EngineCoreOutput) -> bool:
    """Whether an output has nothing but new tokens."""
    return (
        output.finish_reason is None
        and output.new_logprobs is None
        and output.new_prompt_logprobs_tensors is None
        and output.pooling_output is None
        and output.routed_experts is None
        and output.new_sampling_mask is None
        and output.spec_decode_metrics is None
    )


def _wants_usage(serving: Any, request: Any) -> bool:
    usage, _ = chats.should_include_usage(
        request.stream_options, serving.enable_force_include_usage
    )
    return bool(usage)


async def _raising(error: Exception) -> AsyncIterator[RequestOutput]:
    """Raise an error as AsyncLLM's `generate` does."""
    if isinstance(error, _TOLD_AS_THEY_ARE):
        raise error
    raise EngineGenerateError from error
    yield  # it is a generator
