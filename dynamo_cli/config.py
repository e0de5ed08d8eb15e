"""The configuration of each process: a frozen dataclass per process, with the defaults."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_cli.cluster_config import ClusterConfig, RelayConfig
from dynamo_cli.topology import Role

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8181
DEFAULT_MAX_BODY_BYTES = 32 * 1024 * 1024
DEFAULT_KEEPALIVE_S = 75.0
DEFAULT_PREFILL_ALARM_S = 5.0
DEFAULT_DRAIN_TIMEOUT_S = 30.0
DEFAULT_MIGRATION_LIMIT = 3
DEFAULT_MIGRATION_TIMEOUT_S = 60.0
DEFAULT_WORKER_TIMEOUT_S = 30.0
DEFAULT_KV_OVERLAP_WEIGHT = 1.0
DEFAULT_KV_TEMPERATURE = 0.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
BUILT_IN_MODELS = ("demo", "tiny")
"""Models that come with this package and need no hub."""

MOST_WORKERS = 1024
"""More workers are a typing error, and were not tried."""

KV_POLICY = "kv"
ROUTER_POLICIES = ("random", "round-robin", "least-loaded", KV_POLICY)
KV_COSTS = TIME, BLOCKS, SHARES = "time", "blocks", "shares"
FORMER_KV_COSTS = {"ancestor": SHARES}
"""Names of costs in version 0.1, which are still taken."""

KV_TRANSFERS = ("shm", "nixl")
DEFAULT_MAX_LOCAL_PREFILL_LENGTH = 1000
FIRST_ADAPTER_NUMBER = 1_001
"""Number of the first adapter loaded at run time; vLLM numbers ``--lora-modules`` from 1."""
ENGINE_ROLES = (Role.WORKER, Role.PREFILL_WORKER)

FULL_CONTEXTS = 4
"""How many requests of full length the KV cache of a CPU engine should hold.

A larger cache delays the start: each GiB takes seconds to allocate.
"""

LEAST_KV_BYTES = 64 * 1024 * 1024
"""Least size of that cache, however small the model is."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a MIG instance of one.

    Attributes:
        name: its number in the order of the PCI bus, as nvidia-smi shows it; ``0:1`` is the second
            MIG instance of GPU 0.
        uuid: its name in ``CUDA_VISIBLE_DEVICES``.
        bus: address of the GPU on the PCI bus, such as ``0000:3b:00.0``.
    """

    name: str
    uuid: str
    bus: str = ""


Devices = tuple[Device, ...]
"""The GPUs of one engine; empty when it runs on the CPU."""


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """How workers simulate their engine.

    Attributes:
        profile: name of a built-in profile, or a file.
        speedup: how many times faster the engine is than its profile says.
    """

    profile: str
    speedup: float = 1.0


@dataclass(frozen=True, slots=True)
class DiskCacheConfig:
    """KV blocks in a file, below the memory of the host cache.

    Attributes:
        folder: where the file is; it has no name there.
        size_bytes: most that it takes.
    """

    folder: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class HostCacheConfig:
    """KV blocks in the memory of a host, shared by all its engines; also the host cache's own plan.

    Attributes:
        size_bytes: size of the memory of each host.
        path: file under which every process of this run on that host can open it; the supervisor
            makes it, or the outpost there.
        min_tokens: prompts with fewer tokens are not stored.
        disk: the tier below; None if there is none.
    """

    size_bytes: int
    path: str = ""
    min_tokens: int = 0
    disk: DiskCacheConfig | None = None


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Configuration of one engine; the processors, which prepare its requests, get it too.

    Attributes:
        model: what was asked for: ``demo``, ``tiny``, a Hugging Face id or a folder.
        path: where the files of the model are; equal to `model` when vLLM itself finds them.
        served_names: names of the model in the API; answers carry the first.
        args: options for vLLM's own parser, as typed (``--max-num-seqs``, ``32``).
        devices: GPUs of this engine; empty on the CPU.
        tensor_parallel: ranks among which its weights are split; each has a GPU of its own.
        threads: threads of a CPU engine; 0 leaves the number to vLLM.
        kv_cache_limit_bytes: largest KV cache that it may take when `args` give no size for it; 0
            leaves the size to vLLM.
        prefill_chunk_tokens: most prompt tokens that a step computes while an answer streams; 0
            leaves it to vLLM.
        log_level: lowest level that vLLM and other libraries log.
        kv_role: kv_producer in a prefill worker, kv_consumer in a decode worker; empty where
            every worker does its own prefill.
        kv_transfer: one of `KV_TRANSFERS`: how KV blocks get from prefill to decode workers.
        simulation: how workers simulate their engines; None when they run vLLM.
        host_cache: memory that it shares with all engines of the host; None if there is none.
    """

    model: str
    path: str
    served_names: tuple[str, ...]
    args: tuple[str, ...] = ()
    devices: Devices = ()
    tensor_parallel: int = 1
    threads: int = 0
    kv_cache_limit_bytes: int = 0
    prefill_chunk_tokens: int = 0
    log_level: str = "ERROR"
    kv_role: str = ""
    kv_transfer: str = "shm"
    simulation: SimulationConfig | None = None
    host_cache: HostCacheConfig | None = None


@dataclass(frozen=True, slots=True)
class PlacementRule:
    """When a prefill is worth sending away; see `worker.where_to_prefill.decide`.

    Attributes:
        conditional: send away long prefills only, and only while the queue is short.
        max_local_prefill_length: a prefill is long with more prompt tokens than this outside the
            worker's prefix cache.
        max_prefill_queue_size: the queue is short with fewer waiting jobs than this; None means
            two jobs per prefill worker.
    """

    conditional: bool = False
    max_local_prefill_length: int = DEFAULT_MAX_LOCAL_PREFILL_LENGTH
    max_prefill_queue_size: int | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that was loaded at run time.

    Attributes:
        name: the model name by which requests ask for it.
        path: a folder on this host, or a Hugging Face id.
        number: its LoRA id in the engines.
        is_3d: layout of the weights of a mixture of experts: vLLM's ``is_3d_lora_weight``.
    """

    name: str
    path: str
    number: int
    is_3d: bool = False


@dataclass(frozen=True, slots=True)
class AdapterTable:
    """All LoRA adapters that were loaded at run time.

    Attributes:
        last_number: the highest number given so far; no number is given twice.
    """

    adapters: tuple[Adapter, ...] = ()
    last_number: int = FIRST_ADAPTER_NUMBER - 1


ANY = "*"
"""Stands for every host, origin, method or header."""


@dataclass(frozen=True, slots=True)
class OriginRules:
    """Which web pages may use the server from a browser; see `dynamo_cli.origin`.

    Attributes:
        hosts: further host names by which clients may call the server; `ANY`: all names.
        origins: origins of other web pages that may use it, such as ``https://chat.example.com``.
        methods, headers: what requests of such pages may use.
        credentials: whether such pages may send cookies and other credentials.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = (ANY,)
    headers: tuple[str, ...] = (ANY,)
    credentials: bool = False


@dataclass(frozen=True, slots=True)
class MigrationRule:
    """How requests move to another process when the process that has them dies or stops.

    Attributes:
        limit: how often a processor may move a request from worker to worker, and how often the
            frontend may move it from processor to processor; with 0 it fails at once.
        timeout_s: how long a request waits for a process that can take it, seconds.
        first_token_timeout_s: a request without a first token for this many seconds is moved to
            another worker, once; 0: never.
    """

    limit: int = DEFAULT_MIGRATION_LIMIT
    timeout_s: float = DEFAULT_MIGRATION_TIMEOUT_S
    first_token_timeout_s: float = 0.0


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """Configuration of the frontend, the HTTP process.

    Attributes:
        api_keys: keys of which clients must send one; if empty, no key is needed.
        max_body_bytes: a larger request is answered with 413.
        max_inflight: requests in flight beyond this many are answered with 429; 0 is no limit.
        max_connections: connections beyond this many are answered with 503; 0 means as many as
            there may be open files.
        max_pending_bytes: an answer is aborted when its client leaves more than this unread for
            some seconds.
        keepalive_s: seconds after which a connection without a request is closed.
        head_timeout_s: longest time from the first byte of a request to the end of its headers.
        body_timeout_s: seconds for the body; a body that keeps arriving gets more.
        origins: which web pages may use it.
        served_names: names of the model in the API.
        first_answer_timeout_s: seconds within which a new worker has to answer the probe.
        placement: where prompts are prefilled at first; None without prefill workers.
        access_log: whether each answer gets a line in the log.
        log_prompts: whether that line has the prompt.
        otlp_endpoint: URL to which spans of requests are sent; empty sends none.
        record: file that gets a line for each request that succeeded; empty records none.
        admin: whether the endpoints that change the running server exist.
        adapters: LoRA adapters that were loaded before the frontend was restarted.
        gpus: devices whose use and health it watches; empty on the CPU.
        migration: how requests move when their processor dies.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    api_keys: tuple[str, ...] = ()
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    max_inflight: int = 0
    max_connections: int = 0
    max_pending_bytes: int = 1024 * 1024
    keepalive_s: float = DEFAULT_KEEPALIVE_S
    head_timeout_s: float = 30.0
    body_timeout_s: float = 30.0
    origins: OriginRules = OriginRules()
    served_names: tuple[str, ...] = ()
    first_answer_timeout_s: float = 60.0
    placement: PlacementRule | None = None
    access_log: bool = False
    log_prompts: bool = False
    otlp_endpoint: str = ""
    record: str = ""
    admin: bool = False
    adapters: AdapterTable = AdapterTable()
    gpus: Devices = ()
    migration: MigrationRule = MigrationRule()


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """Configuration of a processor.

    Attributes:
        routed: whether there is a router to ask.
        kv_routing: whether the router needs the block hashes of each prompt.
        debug_headers: whether answers name the worker that computed them.
        log_prompts: whether the log may contain text of requests.
        record: whether it reports lengths and block hashes of prompts for ``--record``.
        migration: how requests move when their worker dies.
    """

    engine: EngineConfig
    routed: bool = False
    kv_routing: bool = False
    debug_headers: bool = False
    log_prompts: bool = False
    record: bool = False
    migration: MigrationRule = MigrationRule()


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Configuration of the router. All fields but `policy` are for the policy ``kv`` only.

    Attributes:
        policy: one of `ROUTER_POLICIES`.
        kv_cost: one of `KV_COSTS`.
        kv_overlap_weight: weight of cached blocks relative to load.
        kv_temperature: 0 takes the lowest cost; above 0, lower costs are only more probable.
    """

    policy: str
    kv_cost: str = TIME
    kv_overlap_weight: float = DEFAULT_KV_OVERLAP_WEIGHT
    kv_temperature: float = DEFAULT_KV_TEMPERATURE


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Configuration of a worker or a prefill worker.

    Attributes:
        kv_events: whether it tells the router which blocks its prefix cache holds.
        placement: where prompts are prefilled; None where there are no prefill workers.
        machine: number of the machine that it runs on; 0 is that of the supervisor. Engines of one
            machine share a host cache, which has this number too.
    """

    engine: EngineConfig
    kv_events: bool = False
    placement: PlacementRule | None = None
    machine: int = 0


@dataclass(frozen=True, slots=True)
class PrefillQueueConfig:
    """Configuration of the prefill queue.

    Attributes:
        alarm_s: the queue counts as stuck when its oldest job is older than this.
        within_machine: whether prefill workers serve only decode workers of their own machine,
            because KV blocks go through its memory.
    """

    alarm_s: float = DEFAULT_PREFILL_ALARM_S
    within_machine: bool = False


@dataclass(frozen=True, slots=True)
class ZygoteConfig:
    """Configuration of the zygote."""

    engine: EngineConfig


ChildConfig = (
    HostCacheConfig
    | FrontendConfig
    | ProcessorConfig
    | RouterConfig
    | WorkerConfig
    | PrefillQueueConfig
    | ZygoteConfig
    | RelayConfig
    | ClusterConfig
)
