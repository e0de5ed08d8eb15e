"""All messages that each process may receive; the other modules say who sends them."""

from __future__ import annotations

from dynamo_cli.messages.admin import LoadAdapter, Operate, Operated, UnloadAdapter
from dynamo_cli.messages.cluster import (
    Carry,
    NodesOffered,
    NodeTable,
    OutpostEnded,
    PlaceOutpost,
    RelayBound,
    RelayConnection,
    RelayCut,
    RelayDown,
    RelayJoined,
    RelayStats,
    RelayUp,
)
from dynamo_cli.messages.host_cache import (
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    CacheRefused,
    DiskReads,
    FindBlocks,
    HostCacheStats,
    HostCopies,
    OpenCache,
    SlotsLent,
    SlotsReturned,
)
from dynamo_cli.messages.lifecycle import (
    AdaptersChanged,
    Drain,
    Drained,
    Fatal,
    Fork,
    Forked,
    LinkDown,
    LinkUp,
    Listening,
    Logged,
    PeerEnded,
    PhaseChange,
    Ping,
    PlacementChanged,
    Pong,
    Probe,
    ProbeResult,
    ProcessTable,
    Released,
    Rescale,
    Rescaled,
    Rescued,
    Retire,
    SetPhase,
    StillRunning,
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
    Abort,
    AbortRequests,
    AddRequest,
    Ask,
    CallUtility,
    Chunks,
    EngineReady,
    Finish,
    Head,
    OutputsLost,
    Reply,
    RequestMoved,
    RequestRefused,
    StepOutputs,
    Submit,
    SubmitProbe,
    UtilityAnswer,
)
from dynamo_cli.messages.routing import (
    Decisions,
    FirstToken,
    KvEvents,
    Placed,
    RequestEnd,
    Resync,
    RouteAnswer,
    RouteQuery,
    RouterStats,
)
from dynamo_cli.messages.telemetry import ProcessorStats, WorkerStats

ToProcessor = Submit | SubmitProbe | Ask | LoadAdapter | UnloadAdapter | Abort
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
    | RequestMoved
    | HostCacheStats
    | HostCopies
)
ToRouter = (
    RouteQuery
    | Placed
    | FirstToken
    | RequestEnd
    | EngineReady
    | WorkerStats
    | KvEvents
    | HostCopies
    | DiskReads
)
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
    | SlotsLent
    | BlocksFound
    | CacheRefused
)
ToPrefillQueue = PushJob | CancelJob | PullJobs | JobEnded
ToHostCache = OpenCache | FindBlocks | BlocksRead | BlocksWritten | SlotsReturned | Resync | Operate
ToPrefillWorker = (
    Enlisted
    | RunJob
    | DropJob
    | ReleaseTransfers
    | Resync
    | Operate
    | SlotsLent
    | BlocksFound
    | CacheRefused
)
FromWorker = (
    EngineReady | StepOutputs | OutputsLost | UtilityAnswer | RequestRefused | PrefilledElsewhere
)
ToChild = (
    LinkUp
    | LinkDown
    | PeerEnded
    | Drain
    | Stop
    | Ping
    | Probe
    | ProcessTable
    | SetPhase
    | Fork
    | Logged
    | Retire
    | Rescaled
    | RelayUp
    | RelayDown
    | Carry
    | PlaceOutpost
    | NodeTable
)
ToSupervisor = (
    PhaseChange
    | Fatal
    | ProbeResult
    | StillRunning
    | Drained
    | Pong
    | Listening
    | Forked
    | Rescale
    | Released
    | Rescued
    | AdaptersChanged
    | PlacementChanged
    | RelayBound
    | RelayJoined
    | RelayConnection
    | RelayCut
    | RelayStats
    | Carry
    | NodesOffered
    | OutpostEnded
)
