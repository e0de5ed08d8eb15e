"""Streams of common chats and completions: each step of an engine becomes an event at once.

vLLM passes an output through a queue, a task and several generators to its serving class, which
makes three objects and their JSON for each token. Here the serving class begins the stream, and its
events are made where vLLM would have put the output into the queue, from parts that stay the same.
They are byte for byte the events of vLLM, which makes them for every other request, and when a
stream of another processor goes on here (`resume.py`). Messages are in `message_stream.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import copy_context
from typing import Any, NamedTuple, Protocol

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.entrypoints.openai.chat_completion import serving as chats
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionNamedToolChoiceParam
from vllm.entrypoints.openai.completion import serving as completions
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.engine.output_processor import OutputProcessor, OutputProcessorOutput, RequestState

from dynamo_cli.engines.vllm.front.chat_events import DONE, ChatEvents, usage_of
from dynamo_cli.engines.vllm.front.completion_events import CompletionEvents
from dynamo_cli.engines.vllm.front.outgoing import Outgoing
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace

BeginStream = Callable[..., "Direct | AsyncIterator[str]"]


class Events(Protocol):
    """What makes the events of a stream, as far as all streams need it."""

    def first(self, output: RequestOutput, /) -> bytes:
        """Return the event with which a stream begins; empty if there is none."""

    def text(self, text: str | None, /) -> bytes:
        """Return an event with text."""


class Generation(NamedTuple):
    """A call of AsyncLLM's `generate`, which begins when the stream is read.

    Attributes:
        stream: what `generate` returned; for completions, pairs of a number and an output.
        call: number of the prompt within the API request.
        arguments: the arguments of `AsyncLLM.add_request`: prompt, sampling parameters, id.
        more: its keyword arguments.
    """

    stream: AsyncIterator[Any]
    call: int
    arguments: tuple[str, Any, Any]
    more: dict[str, Any]

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.stream


class Direct:
    """The stream of one answer; AsyncLLM takes it for the queue of the engine request.

    Args:
        llm: runs the engine request.
        generation: the engine request.
        trace: the trace of the API request.
        events: makes the events.
        serving: vLLM's serving object.
        request: the request as vLLM's class.
        answer_id: id of the answer.
        parser: vLLM's parser of reasoning and tool calls; None if the server has none.
        fail: makes vLLM's events for an error that a stream of outputs raises.
    """

    def __init__(
        self,
        llm: AsyncLLM,
        generation: Generation,
        trace: RequestTrace,
        events: Events,
        serving: Any,
        request: Any,
        answer_id: str,
        parser: Any,
        fail: Callable[[AsyncIterator[RequestOutput]], AsyncIterator[str]],
    ) -> None:
        self._llm = llm
        self._generation = generation
        self._trace = trace
        self._events = events
        self._serving = serving
        self._request = request
        self._answer_id = answer_id
        self._parser = parser
        self._fail = fail
        self._out: Outgoing
        # Its result are the last events. `run` sends them, so that they have one message with the
        # end, which its caller sends: many clients leave when they have the last event.
        self._over: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()
        self._context = copy_context()  # parsers make ids, which depend on the trace
        self._named = self._called_tools = False
        self._tokens = 0
        self._ids: list[int] = []  # the tokens, if those of the reasoning are counted

    async def run(self, out: Outgoing) -> AsyncIterator[str] | None:
        """Send the stream up to its end.

        Cancelling it aborts the request in its engine.

        Returns:
            vLLM's events for the error with which it ended, if it did.
        """
        self._out = out
        request_id, prompt, params = self._generation.arguments
        try:
            queue = await self._llm.add_request(request_id, prompt, params, **self._generation.more)
            self._attach(queue)
        except Exception as error:  # noqa: BLE001 - vLLM makes an event of it
            return self._fail(_raising(_of_generate(error)))
        try:
            last = await self._over
        except asyncio.CancelledError:
            await self._llm.abort(queue.request_id, internal=True)
            raise
        except Exception as error:  # noqa: BLE001 - vLLM makes an event of it
            return self._fail(_raising(error))
        for event in last:
            out.event(event)
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
        if isinstance(output, Exception):
            self._over.set_exception(_of_generate(output))
            return
        try:
            self._context.run(self._send, output)
        except Exception as error:  # noqa: BLE001 - it ends this stream, and no other one
            self._over.set_exception(error)

    def close(self) -> None:
        """Do nothing: AsyncLLM's queues have a task that they end."""

    def take(self, state: RequestState, output: EngineCoreOutput) -> bool:
        """Send the event of an output that only has new tokens; False if there is more in it."""
        if not self._tokens or self._parser is not None or not _is_plain(output):
            return False
        if state.detokenizer.stop or state.stream_interval > 1:
            return False
        if self._over.done():
            return True  # it has failed, or its client has left: nobody reads the output
        try:
            self._send_tokens(state.detokenizer, output.new_token_ids)
        except Exception as error:  # noqa: BLE001 - it ends this stream, and no other one
            self._over.set_exception(error)
        return True

    # -- events -----------------------------------------------------------------------------

    def _send_tokens(self, detokenizer: Any, tokens: list[int]) -> None:
        detokenizer.update(tokens, False)
        text = detokenizer.get_next_output_text(False, True)
        self._tokens += len(tokens)
        self._trace.given.add_tokens(tokens)
        self._text(text)

    def _send(self, output: RequestOutput) -> None:
        self._trace.given.add(self._generation.call, output)
        part = output.outputs[0]
        if not self._named:
            self._named = True
            if first := self._first(output):
                self._out.event(first)
        self._serving._raise_if_error(part.finish_reason, self._answer_id)
        if part.text or part.token_ids or self._tokens:
            self._tokens += len(part.token_ids)
            if self._parser is not None:
                self._send_parsed(part, output)
            elif part.finish_reason is None:
                self._text(part.text)
            else:
                self._last(part)
        if output.finished:
            self._end(output)

    def _first(self, output: RequestOutput) -> bytes:
        return self._events.first(output)

    def _text(self, text: str | None) -> None:
        self._out.event(self._events.text(text))

    def _last(self, part: CompletionOutput) -> None:
        assert part.finish_reason is not None
        assert isinstance(self._events, ChatEvents | CompletionEvents)
        self._out.event(self._events.last(part.text, part.finish_reason, part.stop_reason))

    def _send_parsed(self, part: CompletionOutput, output: RequestOutput) -> None:
        """Send the event for what the parser finds in an output."""
        finish = part.finish_reason
        delta = self._parser.parse_delta(
            delta_text=part.text,
            delta_token_ids=list(part.token_ids),
            request=self._request,
            prompt_token_ids=output.prompt_token_ids,
            finished=finish is not None,
        )
        self._ids.extend(part.token_ids)
        if delta is not None and delta.tool_calls:
            self._called_tools = True
        if delta is None:
            if finish is None:
                return
            delta = DeltaMessage()
        named = isinstance(self._request.tool_choice, ChatCompletionNamedToolChoiceParam)
        if self._called_tools and finish == "stop" and not named:
            finish = "tool_calls"
        self._delta(delta, part, finish)

    def _delta(self, delta: DeltaMessage, part: CompletionOutput, finish: str | None) -> None:
        assert isinstance(self._events, ChatEvents)
        self._out.event(self._events.delta(delta, part, finish))

    def _end(self, output: RequestOutput) -> None:
        assert isinstance(self._events, ChatEvents | CompletionEvents)
        usage = [self._usage(output)] if self._events.usage else []
        self._over.set_result([*usage, DONE])

    def _usage(self, output: RequestOutput) -> bytes:
        if isinstance(self._events, CompletionEvents):
            return self._events.end(output, self._tokens)
        assert isinstance(self._events, ChatEvents)
        reasoning = None
        if self._serving._include_reasoning_tokens_details:
            reasoning = self._parser.count_reasoning_tokens(tuple(self._ids))
        return self._events.end(output, self._tokens, reasoning)


# -- installation ------------------------------------------------------------------------------


def install(llm: AsyncLLM, chat: Any, completion: Any) -> None:
    """Let vLLM's objects for chats and for completions begin direct streams where they can."""
    processor = llm.output_processor
    processor.process_outputs = _taking(processor, processor.process_outputs)
    if type(chat) is chats.OpenAIServingChat:  # others make other events
        chat.chat_completion_stream_generator = _begin_chat(llm, chat)
    if type(completion) is completions.OpenAIServingCompletion:
        completion.completion_stream_generator = _begin_completion(llm, completion)


def _begin_chat(llm: AsyncLLM, serving: Any) -> BeginStream:
    stream: Callable[..., AsyncIterator[str]] = serving.chat_completion_stream_generator

    def begin(
        request: Any, outputs: Any, answer_id: str, model: str, *args: Any, **more: Any
    ) -> Direct | AsyncIterator[str]:
        def fail(raising: AsyncIterator[RequestOutput]) -> AsyncIterator[str]:
            return stream(request, raising, answer_id, model, *args, **more)

        if not isinstance(outputs, Generation) or not is_common(serving, request):
            return fail(outputs)
        trace, mm_tokens = current_trace.get(), more.get("mm_token_counts")
        words = (answer_id, int(chats.time.time()), model)
        events = ChatEvents(serving, request, words, mm_tokens)
        parser = None
        if serving.parser_cls is not None:
            parser = serving._make_parser(request, args[1], more.get("chat_template_kwargs"))
        return Direct(llm, outputs, trace, events, serving, request, answer_id, parser, fail)

    return begin


def _begin_completion(llm: AsyncLLM, serving: Any) -> BeginStream:
    stream: Callable[..., AsyncIterator[str]] = serving.completion_stream_generator

    def begin(
        request: Any, inputs: Any, outputs: Any, answer_id: str, *args: Any, **more: Any
    ) -> Direct | AsyncIterator[str]:
        def fail(raising: AsyncIterator[Any]) -> AsyncIterator[str]:
            return stream(request, inputs, raising, answer_id, *args, **more)

        if not isinstance(outputs, Generation) or not is_common_completion(serving, request):
            return fail(outputs)
        created, model = args
        events = CompletionEvents(serving, request, (answer_id, created, model))
        trace = current_trace.get()
        return Direct(llm, outputs, trace, events, serving, request, answer_id, None, fail)

    return begin


def is_common(serving: Any, request: Any) -> bool:
    """Whether an answer has one choice, without log probabilities and other additions."""
    _, continuous = usage_of(serving, request)
    return (
        (request.n or 1) == 1
        and not serving.enable_log_outputs
        and not serving.enable_per_request_metrics
        and not (request.logprobs or request.echo or request.return_token_ids)
        and not (request.return_prompt_text or continuous)
    )


def is_common_completion(serving: Any, request: Any) -> bool:
    """Whether an answer has one choice, without log probabilities and other additions."""
    _, continuous = usage_of(serving, request)
    return (
        request.n == 1
        and request.logprobs is None
        and not serving.enable_per_request_metrics
        and not (request.echo or request.return_token_ids or continuous)
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
    return state is not None and isinstance(state.queue, Direct) and state.queue.take(state, output)


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


def _of_generate(error: Exception) -> Exception:
    """Return the error that AsyncLLM's `generate` raises for one that it meets."""
    told: tuple[type[Exception], ...] = (VLLMClientError, GracefulHTTPError, EngineDeadError)
    if isinstance(error, told):
        return error
    raised: Exception = EngineGenerateError()
    raised.__cause__ = error
    return raised


async def _raising(error: Exception) -> AsyncIterator[RequestOutput]:
    """Raise an error where outputs are expected."""
    raise error
    yield  # it is a generator
