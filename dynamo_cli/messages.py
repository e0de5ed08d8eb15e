"""Every struct that crosses a process, in the order in which a request meets them.

On the wire a message is msgpack of a tagged array (`ipc.codec`). Strings are short names, bytes
travel as they are, engine objects are frames that only engines/vllm can read. All times are
CLOCK_MONOTONIC, which every process of a host shares.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from dynamo_cli.topology import Role

Frames = list[bytes]
"""One object in vLLM's own msgpack encoding: the envelope, then buffers that it refers to."""


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=True):
    """Base of all messages; the class name is the tag."""


# -- frontend -> processor -------------------------------------------------------------------


class Endpoint(StrEnum):
    """What the processor is asked for; the value is the URL's path."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    RESPONSES = "/v1/responses"
    EMBEDDINGS = "/v1/embeddings"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"
    MODELS = "/v1/models"


class Submit(Message, frozen=True):
    """A request as it came in. The processor answers with one `Reply`, or `Head` … `Finish`.

    Attributes:
        body: the raw JSON, not yet looked at.
        headers: lower-case names that matter further on (x-request-id, x-session-id, ...).
        arrival_ns: when the frontend had read the request's head.
        worker: index of the worker that must serve it (a probe); -1 lets the router choose.
        probe: a readiness probe: the processor makes up the smallest request that the model takes.
    """

    request_id: str
    endpoint: Endpoint
    body: bytes
    headers: list[tuple[str, str]]
    arrival_ns: int
    worker: int = -1
    probe: bool = False


class Abort(Message, frozen=True):
    """Stop working on a request; nothing more is expected of it.

    Attributes:
        reason: client_left, slow_reader, shutdown.
    """

    request_id: str
    reason: str


# -- processor -> router ---------------------------------------------------------------------


class RouteQuery(Message, frozen=True):
    """Which worker should serve this request? Answered by a `RoutingDecision`."""

    request_id: str
    prompt_tokens: int


class FirstToken(Message, frozen=True):
    """The request's prefill is over."""

    request_id: str


class RequestEnd(Message, frozen=True):
    """The request ended or was aborted: its load is gone."""

    request_id: str


# -- router -> processor ---------------------------------------------------------------------


class Candidate(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What one worker looked like at a decision, and what it would have cost.

    Attributes:
        cost: of this request on this worker, in the policy's own unit; lower is better.
        terms: the parts that the cost is the sum of, by name.
    """

    worker: int
    cost: float
    terms: dict[str, float]


class RoutingDecision(Message, frozen=True):
    """The worker for a request, and why.

    Attributes:
        worker: index of the winner; -1 if none can take the request.
        policy: the policy that chose.
        candidates: every worker that could have taken it.
        decision_us: time that the choice took, microseconds.
    """

    request_id: str
    worker: int
    policy: str
    candidates: list[Candidate]
    decision_us: float

    def timed(self, elapsed_ns: int) -> RoutingDecision:
        """The same decision with the time that it took."""
        return msgspec.structs.replace(self, decision_us=elapsed_ns / 1000)


# -- processor -> worker ---------------------------------------------------------------------


class AddRequest(Message, frozen=True):
    """Run this request.

    Attributes:
        token_ids: the prompt, little-endian int32; empty when the prompt is in the frames.
        frames: the engine's own request object, without the prompt.
    """

    request_id: str
    token_ids: bytes
    frames: Frames


class AbortRequests(Message, frozen=True):
    """Forget these requests and free what they hold."""

    request_ids: list[str]


class CallUtility(Message, frozen=True):
    """Call a method of the engine by name; answered by `UtilityAnswer`."""

    call_id: int
    method: str
    args: Frames


# -- worker -> processor ---------------------------------------------------------------------


class EngineReady(Message, frozen=True):
    """A worker's engine is up; sent to every processor, router and frontend that it is linked with.

    Only after this message may requests be sent to the worker.

    Attributes:
        tasks: what the model can do, in vLLM's words (generate, embed, ...).
        max_model_len: longest prompt plus answer, tokens, as the engine settled it.
        block_size: tokens per KV block.
        num_blocks: KV blocks that the engine holds.
    """

    worker: int
    tasks: list[str]
    max_model_len: int
    block_size: int
    num_blocks: int


class StepOutputs(Message, frozen=True):
    """What one engine step gave to the requests of one processor."""

    frames: Frames


class UtilityAnswer(Message, frozen=True):
    """The result of a `CallUtility`; `error` is empty when it went well."""

    call_id: int
    result: Frames
    error: str = ""


class RequestRefused(Message, frozen=True):
    """The engine did not take the request, or lost it; it holds nothing of it."""

    request_id: str
    message: str
    http_status: int


# -- processor -> frontend -------------------------------------------------------------------


class Usage(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a request used: numbers of tokens; `cached_tokens` is the engine's measurement."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class Reply(Message, frozen=True):
    """A whole answer."""

    request_id: str
    status: int
    content_type: str
    body: bytes
    usage: Usage = Usage()
    error: str = ""
    """The kind of failure, for the counters; empty when there is none."""


class Head(Message, frozen=True):
    """The start of a streamed answer."""

    request_id: str
    status: int
    content_type: str


class Chunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Bytes of a streamed answer, to be written as they are.

    Attributes:
        tokens: how many new tokens they carry (0: none, only framing).
    """

    request_id: str
    data: bytes
    tokens: int


class Chunks(Message, frozen=True):
    """All that one turn of the processor's loop has for its streams."""

    chunks: list[Chunk]


class Finish(Message, frozen=True):
    """The end of a streamed answer; all its chunks came before."""

    request_id: str
    usage: Usage
    error: str = ""


# -- worker -> frontend and router, router -> frontend: telemetry ----------------------------


class WorkerStats(Message, frozen=True):
    """The engine's load, sent at most a few times a second and whenever it becomes idle.

    Counters are totals of this life of the worker.
    """

    worker: int
    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage: float
    prefix_cache_queries_tokens: int
    prefix_cache_hits_tokens: int
    prompt_tokens: int
    output_tokens: int
    preemptions: int
    steps: int
    refused_sends: int


class RouterStats(Message, frozen=True):
    """What the router has done in this life: decisions by worker index."""

    policy: str
    decisions: dict[int, int]
    active_requests: dict[int, int]
    refused_sends: int


# -- the life of a process --------------------------------------------------------------------


class Phase(StrEnum):
    """Where a process is in its life, in order."""

    STARTING = "starting"
    IMPORTING = "importing"
    LOADING = "loading weights"
    WARMING = "warming up"
    PROBING = "probing"
    READY = "ready"
    DRAINING = "draining"
    BACKOFF = "restarting"
    FAILED = "failed"
    STOPPED = "stopped"


# -- supervisor -> child, over the control socket --------------------------------------------


class LinkUp(Message, frozen=True):
    """A link to `peer`; its descriptors come with the message.

    The six descriptors are memfd, data eventfd and space eventfd of the ring to the peer, then
    the same of the ring from it.
    """

    peer: str
    generation: int


class LinkDown(Message, frozen=True):
    """The peer is gone: deliver what it had committed, fail what was pending, drop the link."""

    peer: str
    generation: int
    reason: str


class Drain(Message, frozen=True):
    """Take no new requests, finish those that run; the frontend answers with `Drained`."""

    timeout_s: float


class Stop(Message, frozen=True):
    """End now."""


class SetPhase(Message, frozen=True):
    """The supervisor's verdict on a child that said it can serve; shown in the child's title."""

    phase: Phase


class Fork(Message, frozen=True):
    """To the zygote: fork a child; its control socket and log pipe come with the message.

    Attributes:
        config: the pickled arguments of the child's ``main``.
    """

    name: str
    config: bytes


class Probe(Message, frozen=True):
    """To the frontend: send one token through the whole path to this worker."""

    worker: int


class ProcessState(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One row of the process table, as people and /health see it.

    Attributes:
        name: ``worker 0``.
        phase: a `Phase`.
        reason: why it is in this phase, when that is not obvious.
        since_ns: when the phase began.
        started_ns: when this life of the process began.
        restarts: how often it was started again.
    """

    name: str
    role: Role
    index: int
    phase: str
    reason: str
    pid: int
    since_ns: int
    started_ns: int
    restarts: int
    device: str = ""


class ProcessTable(Message, frozen=True):
    """To the frontend: every process of the tree, sent at each change."""

    processes: list[ProcessState]
    serving: bool
    reason: str


# -- child -> supervisor, over the control socket --------------------------------------------


class PhaseChange(Message, frozen=True):
    """Where a child is in its life. PROBING means: it can serve, as far as it knows."""

    phase: Phase
    detail: str = ""


class Forked(Message, frozen=True):
    """From the zygote: the child runs."""

    name: str
    pid: int


class Exited(Message, frozen=True):
    """From the zygote: a child that it forked ended.

    Attributes:
        exit_code: as multiprocessing has it: negative is the number of a signal.
    """

    pid: int
    exit_code: int


class Fatal(Message, frozen=True):
    """The child ends because of a named failure; `error` is a class of errors.py."""

    error: str
    message: str


class ProbeResult(Message, frozen=True):
    """From the frontend: how the probe of a worker went; `error` is empty when it answered."""

    worker: int
    error: str


class Drained(Message, frozen=True):
    """From the frontend: nothing is running any more, or time was up with `remaining` left."""

    remaining: int


ToProcessor = Submit | Abort
ToFrontend = Reply | Head | Chunks | Finish | EngineReady | WorkerStats | RouterStats
ToRouter = RouteQuery | FirstToken | RequestEnd | EngineReady | WorkerStats
FromRouter = RoutingDecision
ToWorker = AddRequest | AbortRequests | CallUtility
FromWorker = EngineReady | StepOutputs | UtilityAnswer | RequestRefused
ToChild = LinkUp | LinkDown | Drain | Stop | Probe | ProcessTable | SetPhase | Fork
ToSupervisor = PhaseChange | Fatal | ProbeResult | Drained | Forked | Exited
