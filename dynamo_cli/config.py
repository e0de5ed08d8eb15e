"""What each process is told when it starts: a frozen dataclass per process, every default once."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynamo_cli.topology import ProcessId, Role, tree

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8181
DEFAULT_MAX_BODY_BYTES = 32 * 1024 * 1024
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
        kv_cache_limit_bytes: most that a CPU engine may take for its KV cache when `args` do not
            say how much it gets; 0 leaves it to vLLM.
        log_level: of vLLM's own log.
    """

    model: str
    path: str
    served_names: tuple[str, ...]
    args: tuple[str, ...] = ()
    devices: tuple[int, ...] = ()
    threads: int = 0
    kv_cache_limit_bytes: int = 0
    log_level: str = "ERROR"


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
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
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
        engine_devices: for each worker its GPU indices; empty ones on CPU.
    """

    engine: EngineConfig
    frontend: FrontendConfig
    engine_devices: tuple[tuple[int, ...], ...] = ((),)
    processors: int = 1
    router: str | None = None
    drain_timeout_s: float = 30.0
    restart: RestartPolicy = field(default_factory=RestartPolicy)

    @property
    def workers(self) -> int:
        return len(self.engine_devices)

    def tree(self) -> list[ProcessId]:
        """Every child process, in the order in which they are started."""
        return tree(self.workers, self.processors, routed=self.router is not None)

    def device_of(self, process: ProcessId) -> str:
        """Where its engine runs, for people; empty when it has none."""
        if process.role is not Role.WORKER:
            return ""
        devices = self.engine_devices[process.index]
        return "gpu " + ",".join(map(str, devices)) if devices else "cpu"
