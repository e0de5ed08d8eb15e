"""What each process is told when it starts: a frozen dataclass per process, every default once."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_cli.topology import Role

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8181
DEFAULT_MAX_BODY_BYTES = 32 * 1024 * 1024
DEFAULT_KEEPALIVE_S = 75.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
BUILT_IN_MODELS = ("demo", "tiny")
"""That come with this package and need no hub."""

KV_POLICY = "kv"
ROUTER_POLICIES = ("random", "round-robin", "least-loaded", KV_POLICY)
KV_COSTS = TIME, BLOCKS, SHARES = "time", "blocks", "shares"
FORMER_KV_COSTS = {"ancestor": SHARES}
"""Names of costs in version 0.1, which are still taken."""

KV_TRANSFERS = ("shm", "nixl")
DEFAULT_MAX_LOCAL_PREFILL_LENGTH = 1000
DEFAULT_KV_ARENA_BYTES = 1 << 30
FIRST_ADAPTER_NUMBER = 1_001
"""Those of ``--lora-modules`` have lower ones: vLLM counts them from 1."""
ENGINE_ROLES = (Role.WORKER, Role.PREFILL_WORKER)

FULL_CONTEXTS = 4
"""Requests of full length that a CPU's KV cache should hold. Each GiB takes seconds to allocate."""

LEAST_KV_BYTES = 64 * 1024 * 1024
"""Of that cache, however small the model."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a MIG instance of one.

    Attributes:
        name: its number in the order of the PCI bus, as nvidia-smi shows it; ``0:1`` is the second
            instance of GPU 0.
        uuid: what ``CUDA_VISIBLE_DEVICES`` takes.
        bus: address of the GPU on the PCI bus, such as ``0000:3b:00.0``.
    """

    name: str
    uuid: str
    bus: str = ""


Devices = tuple[Device, ...]
"""The GPUs of one engine; none when it runs on the CPU."""


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """Workers have a simulated engine.

    Attributes:
        profile: name of a built-in one, or a file.
        speedup: how many times faster than the profile says.
    """

    profile: str
    speedup: float = 1.0


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One vLLM engine, and the same for the processors that prepare its requests.

    Attributes:
        model: what was asked for: ``demo``, ``tiny``, a Hugging Face id or a folder.
        path: where its files are; equal to `model` when vLLM itself finds it.
        served_names: names under which the API knows it; the first is the one in answers.
        args: options for vLLM's own parser, as typed (``--max-num-seqs``, ``32``).
        devices: of this engine; empty on CPU.
        tensor_parallel: ranks that share its weights; each has a GPU of its own.
        threads: threads of a CPU engine; 0 leaves it to vLLM.
        kv_cache_limit_bytes: most that a CPU engine may take for its KV cache when `args` do not
            say how much it gets; 0 leaves it to vLLM.
        log_level: of the log of vLLM and of other libraries.
        kv_role: kv_producer in a prefill worker, kv_consumer in a decode worker; empty where
            every worker does its own prefill.
        kv_transfer: one of `KV_TRANSFERS`: how blocks get from one to the other.
        kv_arena_bytes: shared memory for blocks on their way, of each prefill worker.
        simulation: of the workers' engines; None: they compute.
    """

    model: str
    path: str
    served_names: tuple[str, ...]
    args: tuple[str, ...] = ()
    devices: Devices = ()
    tensor_parallel: int = 1
    threads: int = 0
    kv_cache_limit_bytes: int = 0
    log_level: str = "ERROR"
    kv_role: str = ""
    kv_transfer: str = "shm"
    kv_arena_bytes: int = DEFAULT_KV_ARENA_BYTES
    simulation: SimulationConfig | None = None


@dataclass(frozen=True, slots=True)
class PlacementRule:
    """When a prefill is worth sending away; see `worker.placement.decide`.

    Attributes:
        conditional: only long ones, and only while the queue is short.
        max_local_prefill_length: tokens that are not in the local cache; more are sent away.
        max_prefill_queue_size: jobs that may wait in the queue; None: two per prefill worker.
    """

    conditional: bool = False
    max_local_prefill_length: int = DEFAULT_MAX_LOCAL_PREFILL_LENGTH
    max_prefill_queue_size: int | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter that was loaded at run time.

    Attributes:
        name: that requests give as their model.
        path: a folder on this host, or a Hugging Face id.
        number: under which engines know its weights.
        is_3d: layout of a mixture of experts' weights, as vLLM's ``is_3d_lora_weight``.
    """

    name: str
    path: str
    number: int
    is_3d: bool = False


@dataclass(frozen=True, slots=True)
class AdapterTable:
    """All of them.

    Attributes:
        last_number: the highest that was ever given away; none is given twice.
    """

    adapters: tuple[Adapter, ...] = ()
    last_number: int = FIRST_ADAPTER_NUMBER - 1


ANY = "*"


@dataclass(frozen=True, slots=True)
class OriginRules:
    """From where browsers may use the server; see `dynamo_cli.frontend.http.origin`.

    Attributes:
        hosts: further names by which it may be called; `ANY`: all.
        origins: of other web pages that may ask, such as ``https://chat.example.com``.
        methods, headers: that such a page may use.
        credentials: whether it may send cookies and the like.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    methods: tuple[str, ...] = (ANY,)
    headers: tuple[str, ...] = (ANY,)
    credentials: bool = False


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """The HTTP side.

    Attributes:
        api_keys: any of them opens the API; empty leaves it open.
        max_inflight: requests at once before 429; 0 is no limit.
        max_connections: at once before 503; 0: as many as there may be open files.
        max_pending_bytes: of one answer that its reader does not take, before it is aborted.
        keepalive_s: after which a connection without a request is closed.
        head_timeout_s: from the first byte of a request to the end of its head.
        body_timeout_s: until a body is there; one that keeps coming gets longer.
        origins: from where browsers may use it.
        placement: where prompts are prefilled at first; None without prefill workers.
        access_log: write a line for each request that ended.
        log_prompts: with its prompt.
        otlp_endpoint: URL to which the spans of requests are sent; empty: nowhere.
        record: file that gets a line for each request that ended well; empty: none does.
        admin: what changes the running server is there.
        adapters: LoRA adapters that an earlier life of the frontend has loaded.
        gpus: whose use and health it watches; none on a CPU.
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


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    """A processor.

    Attributes:
        routed: there is a router to ask.
        kv_routing: it wants to know the blocks of each prompt.
        debug_headers: answers say which worker gave them.
        log_prompts: the log may have text of requests in it.
        record: and what their prompts were, in lengths and hashes.
    """

    engine: EngineConfig
    routed: bool = False
    kv_routing: bool = False
    debug_headers: bool = False
    log_prompts: bool = False
    record: bool = False


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """The router.

    Attributes:
        policy: one of `ROUTER_POLICIES`.
        kv_cost: one of `KV_COSTS`; what follows belongs to the policy kv too.
        kv_overlap_weight: how much cached blocks count against load.
        kv_temperature: 0 takes the lowest cost; above, lower costs are only more likely.
    """

    policy: str
    kv_cost: str = TIME
    kv_overlap_weight: float = 1.0
    kv_temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """A worker.

    Attributes:
        kv_events: tell the router what the engine's cache holds.
        placement: where prompts are prefilled; None where there are no prefill workers.
    """

    engine: EngineConfig
    kv_events: bool = False
    placement: PlacementRule | None = None


@dataclass(frozen=True, slots=True)
class PrefillQueueConfig:
    """The prefill queue.

    Attributes:
        alarm_s: age of the oldest job from which on the queue is stuck.
    """

    alarm_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ZygoteConfig:
    engine: EngineConfig


ChildConfig = (
    FrontendConfig
    | ProcessorConfig
    | RouterConfig
    | WorkerConfig
    | PrefillQueueConfig
    | ZygoteConfig
)
