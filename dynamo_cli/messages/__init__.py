"""Every struct that crosses a process, in the order in which a request meets them.

On the wire a message is msgpack of a tagged array (`ipc.codec`). Strings are short names, bytes
travel as they are, engine objects are frames that only engines/vllm can read. All times are
CLOCK_MONOTONIC, which every process of a host shares.
"""

from __future__ import annotations

from dynamo_cli.messages.admin import Operate, Operated, Operation
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.lifecycle import (
    AdaptersChanged,
    Drain,
    Drained,
    Exited,
    Fatal,
    Fork,
    Forked,
    LinkDown,
    LinkUp,
    Logged,
    LogLine,
    Phase,
    PhaseChange,
    Probe,
    ProbeResult,
    ProcessState,
    ProcessTable,
    Released,
    Rescale,
    Rescaled,
    Retire,
    SetPhase,
    Stop,
)
from dynamo_cli.messages.prefill import (
    CancelJob,
    DropJob,
    Enlisted,
    JobEnded,
    JobFailed,
    PrefillDone,
    PrefilledElsewhere,
    PrefillQueueStats,
    PullJobs,
    PushJob,
    QueueState,
    ReleaseTransfers,
    RunJob,
    SetPlacement,
    TransferStats,
)
from dynamo_cli.messages.request import (
    MAX_SESSION_ID,
    NO_WORKER,
    Abort,
    AbortRequests,
    AddRequest,
    CallUtility,
    Chunk,
    Chunks,
    Endpoint,
    EngineReady,
    Finish,
    Frames,
    Head,
    OutputsLost,
    Prompt,
    Reply,
    RequestRefused,
    StepOutputs,
    Submit,
    Timeline,
    Usage,
    UtilityAnswer,
)
from dynamo_cli.messages.routing import (
    DECISION_BOUNDS_US,
    Candidate,
    Decisions,
    FirstToken,
    KvEvents,
    Measured,
    Placed,
    RequestEnd,
    Resync,
    RouteAnswer,
    RouteQuery,
    RouterStats,
    RoutingDecision,
)
from dynamo_cli.messages.telemetry import (
    ProcessorStats,
    WorkerStats,
)

ToProcessor = Submit | Abort
ToFrontend = (
    Reply
    | Head
    | Chunks
    | Finish
    | EngineReady
    | WorkerStats
    | ProcessorStats
    | RouterStats
    | Decisions
    | PrefillQueueStats
    | TransferStats
    | Operated
)
ToRouter = RouteQuery | Placed | FirstToken | RequestEnd | EngineReady | WorkerStats | KvEvents
FromRouter = RouteAnswer
ToWorker = (
    AddRequest
    | AbortRequests
    | CallUtility
    | Resync
    | QueueState
    | JobFailed
    | PrefillDone
    | SetPlacement
    | Operate
)
ToPrefillQueue = PushJob | CancelJob | PullJobs | JobEnded
ToPrefillWorker = Enlisted | RunJob | DropJob | ReleaseTransfers | Resync | Operate
FromWorker = (
    EngineReady | StepOutputs | OutputsLost | UtilityAnswer | RequestRefused | PrefilledElsewhere
)
ToChild = (
    LinkUp
    | LinkDown
    | Drain
    | Stop
    | Probe
    | ProcessTable
    | SetPhase
    | Fork
    | Logged
    | Retire
    | Rescaled
)
ToSupervisor = (
    PhaseChange
    | Fatal
    | ProbeResult
    | Drained
    | Forked
    | Exited
    | Rescale
    | Released
    | AdaptersChanged
)

__all__ = [
    "DECISION_BOUNDS_US",
    "MAX_SESSION_ID",
    "NO_WORKER",
    "Abort",
    "AbortRequests",
    "AdaptersChanged",
    "AddRequest",
    "CallUtility",
    "CancelJob",
    "Candidate",
    "Chunk",
    "Chunks",
    "Decisions",
    "Drain",
    "Drained",
    "DropJob",
    "Endpoint",
    "EngineReady",
    "Enlisted",
    "Exited",
    "Fatal",
    "Finish",
    "FirstToken",
    "Fork",
    "Forked",
    "Frames",
    "FromRouter",
    "FromWorker",
    "Head",
    "JobEnded",
    "JobFailed",
    "KvEvents",
    "LinkDown",
    "LinkUp",
    "LogLine",
    "Logged",
    "Measured",
    "Message",
    "Operate",
    "Operated",
    "Operation",
    "OutputsLost",
    "Phase",
    "PhaseChange",
    "Placed",
    "PrefillDone",
    "PrefillQueueStats",
    "PrefilledElsewhere",
    "Probe",
    "ProbeResult",
    "ProcessState",
    "ProcessTable",
    "ProcessorStats",
    "Prompt",
    "PullJobs",
    "PushJob",
    "QueueState",
    "ReleaseTransfers",
    "Released",
    "Reply",
    "RequestEnd",
    "RequestRefused",
    "Rescale",
    "Rescaled",
    "Resync",
    "Retire",
    "RouteAnswer",
    "RouteQuery",
    "RouterStats",
    "RoutingDecision",
    "RunJob",
    "SetPhase",
    "SetPlacement",
    "StepOutputs",
    "Stop",
    "Submit",
    "Timeline",
    "ToChild",
    "ToFrontend",
    "ToPrefillQueue",
    "ToPrefillWorker",
    "ToProcessor",
    "ToRouter",
    "ToSupervisor",
    "ToWorker",
    "TransferStats",
    "Usage",
    "UtilityAnswer",
    "WorkerStats",
]
