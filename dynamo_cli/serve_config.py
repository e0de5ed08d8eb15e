"""The plan of a whole process tree: what the supervisor starts, and the configuration of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dynamo_cli.cluster_config import ClusterConfig, ClusterPlan, Node
from dynamo_cli.config import (
    DEFAULT_DRAIN_TIMEOUT_S,
    DEFAULT_WORKER_TIMEOUT_S,
    ENGINE_ROLES,
    KV_POLICY,
    ChildConfig,
    Devices,
    EngineConfig,
    FrontendConfig,
    HostCacheConfig,
    PlacementRule,
    PrefillQueueConfig,
    ProcessorConfig,
    RouterConfig,
    WorkerConfig,
    ZygoteConfig,
)
from dynamo_cli.topology import ROLES, ProcessId, Role, tree


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How children that die are restarted.

    A life (from a start to an exit) counts as failed when the process ends by itself before it has
    been ready for `settled_s` seconds, or for any reason before it was ready at all.

    Attributes:
        limit: after one more failed life than this in a row, the child is given up.
        first_delay_s: delay of the restart after the first failed life, seconds; it doubles with
            each further one. After a life that has not failed, the restart is at once.
        settled_s: a child that has been ready for this long, seconds, has not failed.
    """

    limit: int = 5
    first_delay_s: float = 0.5
    settled_s: float = 60.0


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """The resolved command line: everything that the supervisor needs.

    Attributes:
        engine_devices: the GPUs of each worker; empty tuples on the CPU.
        prefill_devices: the GPUs of each prefill worker; empty without disaggregation.
        gpus: GPUs that workers may have; there may be more than they use at the start.
        worker_tp, prefill_tp: tensor-parallel ranks of each worker and each prefill worker.
        placement: where prompts are prefilled, if there are prefill workers.
        processors: how many there are.
        router: None when a single worker needs no router.
        host_cache: memory for KV blocks that all engines share; None if there is none.
        debug_headers: whether answers name the worker that computed them.
        worker_timeout_s: a process that gives no sign of life for so long is killed and started
            again, seconds; 0: never. See `supervisor.liveness`.
        drain_timeout_s: how long requests in flight may take once the server is to end.
        cluster: which machines run the engines; None if all of them run on this one.
    """

    engine: EngineConfig
    frontend: FrontendConfig
    engine_devices: tuple[Devices, ...] = ((),)
    prefill_devices: tuple[Devices, ...] = ()
    gpus: Devices = ()
    worker_tp: int = 1
    prefill_tp: int = 1
    placement: PlacementRule = field(default_factory=PlacementRule)
    prefill_queue: PrefillQueueConfig = field(default_factory=PrefillQueueConfig)
    processors: int = 1
    router: RouterConfig | None = None
    host_cache: HostCacheConfig | None = None
    debug_headers: bool = False
    worker_timeout_s: float = DEFAULT_WORKER_TIMEOUT_S
    drain_timeout_s: float = DEFAULT_DRAIN_TIMEOUT_S
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    cluster: ClusterPlan | None = None

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self.engine_devices)

    @property
    def kv_routing(self) -> bool:
        """Whether the router needs block hashes, of the workers' caches and of the prompts."""
        return self.router is not None and self.router.policy == KV_POLICY

    @property
    def processor_config(self) -> ProcessorConfig:
        """The configuration of each processor."""
        return ProcessorConfig(
            self.engine,
            self.router is not None,
            self.kv_routing,
            self.debug_headers,
            self.frontend.log_prompts,
            bool(self.frontend.record),
            self.frontend.migration,
        )

    def worker_config(self, index: int) -> WorkerConfig:
        """The configuration of a worker. With prefill workers, it consumes their KV blocks."""
        engine = replace(
            self.engine,
            devices=self.engine_devices[index],
            tensor_parallel=self.worker_tp,
            host_cache=self.host_cache,
        )
        machine = self.machine_of(ProcessId(Role.WORKER, index))
        if not self.prefill_devices:
            return WorkerConfig(engine, self.kv_routing, machine=machine)
        engine = replace(engine, kv_role="kv_consumer")
        return WorkerConfig(engine, self.kv_routing, self.placement, machine)

    def prefill_worker_config(self, index: int) -> WorkerConfig:
        """The configuration of a prefill worker."""
        engine = replace(
            self.engine,
            devices=self.prefill_devices[index],
            tensor_parallel=self.prefill_tp,
            kv_role="kv_producer",
            host_cache=self.host_cache,
        )
        machine = self.machine_of(ProcessId(Role.PREFILL_WORKER, index))
        return WorkerConfig(engine, self.kv_routing, machine=machine)

    def config_of(self, process: ProcessId) -> ChildConfig:
        """The configuration that a child process gets at its start."""
        chosen: ChildConfig | None
        match process.role:
            case Role.FRONTEND:
                chosen = replace(self.frontend, gpus=self.watched_gpus)
            case Role.ROUTER:
                chosen = self.router
            case Role.HOST_CACHE:
                chosen = self.host_cache
            case Role.PROCESSOR:
                chosen = self.processor_config
            case Role.WORKER:
                chosen = self.worker_config(process.index)
            case Role.PREFILL_QUEUE:
                chosen = self.prefill_queue
            case Role.PREFILL_WORKER:
                chosen = self.prefill_worker_config(process.index)
            case Role.CLUSTER if self.cluster is not None:
                chosen = ClusterConfig(self.cluster.address, self.cluster.nodes)
            case _:
                chosen = ZygoteConfig(self.engine)
        assert chosen is not None
        return chosen

    def tree(self) -> list[ProcessId]:
        """All child processes, in the order in which they are started."""
        return tree(
            self.workers,
            self.processors,
            routed=self.router is not None,
            prefill_workers=len(self.prefill_devices),
            host_caches=self._host_caches(),
            nodes=len(self.cluster.nodes) if self.cluster is not None else 0,
        )

    def _host_caches(self) -> Sequence[int]:
        """The machines that have a host cache: this one, or all others that have engines."""
        if self.host_cache is None:
            return ()
        return (0,) if self.cluster is None else range(1, len(self.cluster.nodes) + 1)

    def machine_of(self, process: ProcessId) -> int:
        """Number of the machine of a process: 0 is this one; others are one more than their
        position in the plan."""
        if self.cluster is None:
            return 0
        match process.role:
            case Role.WORKER:
                return self.cluster.workers[process.index] + 1
            case Role.PREFILL_WORKER:
                return self.cluster.prefill_workers[process.index] + 1
            case Role.HOST_CACHE:
                return process.index
        return 0

    def node_of(self, process: ProcessId) -> Node | None:
        """The other machine to which a process belongs; None for this one, relays included."""
        machine = self.machine_of(process)
        return self.cluster.nodes[machine - 1] if machine and self.cluster is not None else None

    def forked(self, process: ProcessId) -> bool:
        """Whether the zygote forks it, because it needs vLLM. A simulated engine does not."""
        simulated = self.engine.simulation is not None
        return ROLES[process.role].engine and not (simulated and process.role in ENGINE_ROLES)

    def devices_of(self, process: ProcessId) -> Devices:
        """The GPUs of its engine; empty when it has no engine, or one on the CPU."""
        match process.role:
            case Role.WORKER:
                return self.engine_devices[process.index]
            case Role.PREFILL_WORKER:
                return self.prefill_devices[process.index]
        return ()

    def device_of(self, process: ProcessId) -> str:
        """Where its engine runs, for people; empty when it has no engine."""
        if process.role is Role.RELAY and self.cluster is not None:
            return f"@ {self.cluster.nodes[process.index].name}"
        devices, node = self.devices_of(process), self.node_of(process)
        if process.role not in ENGINE_ROLES:
            return f"@ {node.name}" if node is not None else ""
        device = "gpu " + ",".join(device.name for device in devices) if devices else "cpu"
        return device if node is None else f"{device} @ {node.name}"

    @property
    def watched_gpus(self) -> Devices:
        """The GPUs of this machine that engines have, and those that further workers may get."""
        if self.cluster is not None:
            return ()
        had = [gpu for devices in (*self.prefill_devices, *self.engine_devices) for gpu in devices]
        return tuple(dict.fromkeys([*had, *self.gpus]))
