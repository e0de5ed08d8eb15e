"""What each process is told when it starts: a frozen dataclass per process, every default once."""

from __future__ import annotations

from dataclasses import dataclass, field

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8181
ROUTER_POLICIES = ("random", "round-robin", "least-loaded")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """One vLLM engine, and the same for the processors that prepare its requests.

    Attributes:
        model: what was asked for: ``demo``, ``tiny``, a Hugging Face id or a folder.
        path: where its files are; equal to `model` when vLLM itself finds it.
        served_names: names under which the API knows it; the first is the one in answers.
        args: options for vLLM's own parser, as typed (``--max-num-seqs``, ``32``).
        devices: GPU indices of this engine; empty on CPU.
        threads: threads of a CPU engine; 0 leaves it to vLLM.
        log_level: of vLLM's own log.
    """

    model: str
    path: str
    served_names: tuple[str, ...]
    args: tuple[str, ...] = ()
    devices: tuple[int, ...] = ()
    threads: int = 0
    log_level: str = "WARNING"


@dataclass(frozen=True, slots=True)
class FrontendConfig:
    """The HTTP side.

    Attributes:
        api_keys: any of them opens the API; empty leaves it open.
        max_inflight: requests at once before 429; 0 is no limit.
        max_pending_bytes: of one answer that its reader does not take, before it is aborted.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    api_keys: tuple[str, ...] = ()
    max_body_bytes: int = 32 * 1024 * 1024
    max_inflight: int = 0
    max_pending_bytes: int = 1024 * 1024
    served_names: tuple[str, ...] = ()
    first_answer_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ProcessorConfig:
    engine: EngineConfig
    workers: int
    routed: bool


@dataclass(frozen=True, slots=True)
class RouterConfig:
    policy: str


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    engine: EngineConfig
    processors: int


@dataclass(frozen=True, slots=True)
class ZygoteConfig:
    engine: EngineConfig


ChildConfig = FrontendConfig | ProcessorConfig | RouterConfig | WorkerConfig | ZygoteConfig


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """A child that dies is started again, `limit` times within `window_s`, later each time."""

    limit: int = 5
    window_s: float = 300.0
    first_delay_s: float = 0.5
    max_delay_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """The command line, resolved: everything that the supervisor needs.

    Attributes:
        router: a policy of `ROUTER_POLICIES`, or None when one worker needs no router.
        engine_devices: GPU indices per worker; one empty tuple per worker on CPU.
        ui: auto, plain or none.
    """

    engine: EngineConfig
    frontend: FrontendConfig
    workers: int = 1
    processors: int = 1
    router: str | None = None
    engine_devices: tuple[tuple[int, ...], ...] = ()
    drain_timeout_s: float = 30.0
    ui: str = "auto"
    restart: RestartPolicy = field(default_factory=RestartPolicy)
