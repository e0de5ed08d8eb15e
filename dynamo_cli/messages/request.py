"""A request on its way: frontend, processor, worker and back."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from dynamo_cli.messages.base import Message
from dynamo_cli.messages.telemetry import CacheFacts

Frames = list[bytes]
"""One object in vLLM's own msgpack encoding: first the envelope, then the buffers it refers to.

Token ids travel as raw bytes beside the frames: a request with 2,000 of them is encoded and decoded
in 15 us, compared with 80 us if they are in the frames.
"""

MAX_SESSION_ID = 256
"""Longest session id, characters, in the header or in the body."""


# -- frontend -> processor -------------------------------------------------------------------


class Endpoint(StrEnum):
    """Paths of requests to the model."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    EMBEDDINGS = "/v1/embeddings"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"


class Question(StrEnum):
    """Paths of questions about the model, which a processor answers without an engine."""

    MODELS = "/v1/models"
    OPENAPI = "/openapi.json"


class ForProcessor(Message, frozen=True):
    """Base of what a frontend wants a processor to answer.

    The answer is one `Reply`, or a stream: `Head`, any number of `Chunks`, `Finish`.

    Attributes:
        request_id: the frontend's own key; no other request ever has the same.
        api_id: the id in answers and in the log; other requests may have the same.
    """

    request_id: str
    api_id: str


class Resume(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How far a stream had come when its processor was lost, for the next processor.

    Attributes:
        chunks: number of chunks that the frontend has; they are made again, but not sent again.
        size: their total length, bytes; the stream fails if they come out with another one.
        output: the `Chunk.output` of all of them, joined: what engines have given so far.
        failure: the error message for the client if the stream cannot go on.
    """

    chunks: int
    size: int
    output: bytes
    failure: str


class Submit(ForProcessor, frozen=True):
    """A client's request to the model.

    Attributes:
        body: what the client sent. The frontend has checked that it is a JSON object (of a large
            one only that it is JSON), and nothing else.
        headers: the few headers that the processor or the engine reads; names in lower case.
        seed: the ids in the answer are derived from it, so that another processor makes the same
            ones; empty for random ids.
        created_s: the creation time in the answer, seconds since 1970; 0 for the processor's clock.
        resume: set if a processor had begun to stream the answer and was lost; None otherwise.
    """

    endpoint: Endpoint
    body: bytes
    headers: list[tuple[str, str]]
    seed: bytes = b""
    created_s: float = 0.0
    resume: Resume | None = None


class SubmitProbe(ForProcessor, frozen=True):
    """A readiness probe: send the smallest request that the model takes to this worker."""

    worker: int


class Ask(ForProcessor, frozen=True):
    """A question about the model."""

    question: Question


class Abort(Message, frozen=True):
    """Stop working on a request. The reason is client_left, slow_reader, shutdown or poison."""

    request_id: str
    reason: str


# -- processor -> worker ---------------------------------------------------------------------


class AddRequest(Message, frozen=True):
    """Run this engine request.

    Attributes:
        token_ids: the prompt, little-endian int32; empty when the prompt is in the frames.
        frames: vLLM's request object, without the prompt.
        prefill_worker: index of the prefill worker that holds most of the prompt's blocks; None if
            none holds any.
        probe: whether it is a readiness probe, which statistics do not count.
        output_tokens: output tokens that earlier workers have produced, little-endian int32; empty
            for a new request. The engine computes them again and goes on after them, as it does
            with a request that it has preempted.
    """

    request_id: str
    token_ids: bytes
    frames: Frames
    prefill_worker: int | None = None
    probe: bool = False
    output_tokens: bytes = b""


class AbortRequests(Message, frozen=True):
    """Stop these requests and free what they hold."""

    request_ids: list[str]


class CallUtility(Message, frozen=True):
    """Call a method of the engine core by its name; answered by `UtilityAnswer`."""

    call_id: int
    method: str
    args: Frames


# -- worker -> processor ---------------------------------------------------------------------


class EngineReady(Message, frozen=True):
    """A worker's engine is ready and takes requests; for all processors, router and frontend.

    Attributes:
        tasks: what the model can do, in vLLM's words (generate, embed, ...).
        max_model_len: most tokens of a prompt and its answer, as the engine determined it.
        block_size: tokens per KV block.
        num_blocks: KV blocks that fit into the engine's cache.
        max_num_seqs: requests that the engine runs at once; more wait in it.
        cache: what else the engine says about its KV cache.
        machine: see `WorkerConfig`; the worker loads blocks of the host cache with this number.
    """

    worker: int
    tasks: list[str]
    max_model_len: int
    block_size: int
    num_blocks: int
    max_num_seqs: int
    cache: CacheFacts = CacheFacts()
    machine: int = 0


class StepOutputs(Message, frozen=True):
    """The outputs of one engine step for the requests of one processor."""

    frames: Frames


class UtilityAnswer(Message, frozen=True):
    """The result of a `CallUtility`; `error` says why it failed, and is empty if it did not."""

    call_id: int
    result: Frames
    error: str = ""


class RequestRefused(Message, frozen=True):
    """The engine refused or lost the request, and keeps nothing of it."""

    request_id: str
    message: str
    http_status: int


class OutputsLost(Message, frozen=True):
    """Outputs could not be sent, because the link to this processor was full.

    The worker has aborted all requests of this processor.
    """

    worker: int


# -- processor -> frontend -------------------------------------------------------------------


class Usage(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Tokens that a request used; the engine measured how many of its prompt were cached."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class Timeline(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """When a request reached each stage, on CLOCK_MONOTONIC, nanoseconds; 0 if it never did.

    If there are several engine requests (n > 1, a list of prompts), these are the times of the
    first.

    Attributes:
        received_ns: the processor received it.
        prepared_ns: template, tokenizer and checks were done.
        routed_ns: its worker was chosen.
        sent_ns: it was written to the worker's link.
        pushed_ns: the worker gave its prompt to the prefill queue.
        leased_ns: a prefill worker took the job.
        prefilled_ns: the prefill worker had computed all blocks.
        queued_ns: the decoding engine received it.
        scheduled_ns: the decoding engine began with it.
        first_token_ns: the processor received its first token.
        ended_ns: the processor received its last token, over all its engine requests.
        prefill_worker: index of the prefill worker that computed the prompt; None if none did.
    """

    received_ns: int = 0
    prepared_ns: int = 0
    routed_ns: int = 0
    sent_ns: int = 0
    pushed_ns: int = 0
    leased_ns: int = 0
    prefilled_ns: int = 0
    queued_ns: int = 0
    scheduled_ns: int = 0
    first_token_ns: int = 0
    ended_ns: int = 0
    prefill_worker: int | None = None


class MoveReason(StrEnum):
    """Why a request left its process; the value is the name in counters and logs."""

    DIED = "died"
    STALLED = "stalled"  # the supervisor ended the process, because it had stalled
    NODE_LOST = "node_lost"  # the connection to its node was lost, or the node
    DRAINED = "drained"  # the worker is to be stopped
    ASLEEP = "asleep"  # the worker's engine sleeps
    OUTPUTS_LOST = "outputs_lost"  # the link from the worker was full
    FIRST_TOKEN = "first_token_timeout"  # none came within --first-token-timeout


class Move(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One move of a request from a process that cannot finish it to another one.

    Attributes:
        role: role of the process that it left: worker or processor.
        source: index of that process.
        target: index of the process that it went to; None if it found none in time.
        reason: why it left.
        output_tokens: output tokens that all answers of the request had together when it left.
        left_ns: when it left, on the monotonic clock.
        resumed_ns: when its next token came; 0 if none has come.
    """

    role: str
    source: int
    target: int | None
    reason: MoveReason
    output_tokens: int
    left_ns: int
    resumed_ns: int = 0


class RequestMoved(Message, frozen=True):
    """To the frontend: a request has moved to another worker, or found none in time.

    Sent as soon as that is known, since the answer, which carries all moves, may end much later.

    Attributes:
        request_id: the frontend's key of the request.
        api_id: the id that clients and the log know it by.
    """

    request_id: str
    api_id: str
    move: Move


class Prompt(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a recorded trace keeps of a prompt: lengths and hashes, never its text.

    Attributes:
        prompt_tokens: length of the prompt.
        output_tokens: tokens of all answers to it.
        block_size: tokens per hash.
        hashes: sequence hashes of its full blocks; see `kv.hashes.pack`.
        session: the client's X-Session-ID; empty when there is none.
        priority: requests with a smaller number are served first.
    """

    prompt_tokens: int
    output_tokens: int
    block_size: int
    hashes: bytes
    session: str
    priority: int


class Reply(Message, frozen=True):
    """A whole answer.

    Attributes:
        error: kind of the failure, for the counters; empty when there is none.
        headers: headers to add to the answer.
        worker: index of the worker that served it, the first of several; None if none did.
        finish_reason: why its engine ended it (stop, length, abort, error, ...), or empty.
        prompts: its prompts, if requests are recorded; else empty.
        moves: the moves of its engine requests between workers, in the order of time.
    """

    request_id: str
    status: int
    content_type: str
    body: bytes
    usage: Usage = Usage()
    error: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    worker: int | None = None
    finish_reason: str = ""
    timeline: Timeline = Timeline()
    prompts: tuple[Prompt, ...] = ()
    moves: tuple[Move, ...] = ()


class Head(Message, frozen=True):
    """The start of a streamed answer; for the fields see `Reply`."""

    request_id: str
    status: int
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()
    worker: int | None = None


class Chunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Bytes of a streamed answer, which the frontend writes as they are.

    Attributes:
        tokens: how many new tokens they carry; 0 if they are framing only.
        output: what engines have given since the chunk before, as `front/given.py` packs it. The
            frontend keeps it for `Resume` and does not read it.
    """

    request_id: str
    data: bytes
    tokens: int
    output: bytes = b""


class Finish(Message, frozen=True):
    """The end of a streamed answer; no chunk comes after it. For the fields see `Reply`."""

    request_id: str
    usage: Usage
    error: str = ""
    worker: int | None = None
    finish_reason: str = ""
    timeline: Timeline = Timeline()
    prompts: tuple[Prompt, ...] = ()
    moves: tuple[Move, ...] = ()


class Chunks(Message, frozen=True):
    """The chunks of all streams from one iteration of the processor's event loop.

    With `finish`, the stream of the last one ends: many clients leave with its last event.
    """

    chunks: list[Chunk]
    finish: Finish | None = None
