"""Resolves typed options and the resources of a machine into the plan to run. Pure."""

from __future__ import annotations

from dataclasses import replace

from dynamo_cli.config import (
    DEFAULT_MAX_LOCAL_PREFILL_LENGTH,
    KV_POLICY,
    LOOPBACK,
    ROUTER_POLICIES,
    Devices,
    FrontendConfig,
    MigrationRule,
    PlacementRule,
    PrefillQueueConfig,
    RouterConfig,
)
from dynamo_cli.errors import ResourceError, UsageError
from dynamo_cli.host.gpus import Gpu
from dynamo_cli.plan import limits, resolve_cluster
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.resolve_cluster import Seats
from dynamo_cli.plan.resolve_engine import (
    check_context,
    devices_of,
    engine_config,
    is_given,
    refuse_what_a_cpu_cannot,
    simulation_of,
    stages_of,
)
from dynamo_cli.plan.resolve_host_cache import available_beside, host_cache
from dynamo_cli.plan.resolve_http import api_keys, listen_host, origin_rules, otlp_endpoint
from dynamo_cli.plan.typed import AUTO, NO_ROUTER, Typed
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.gpus import groups_of
from dynamo_cli.units import whole_number

SEVERAL_WORKERS_POLICY = "least-loaded"
"""The default policy with several workers."""

SEVERAL_PROCESSORS = 2
"""The smallest default number of processors with several engines."""

PROCESSORS_OF_ONE = 3
"""The default number of processors with one engine on a GPU: a burst of requests then reaches the
engine sooner."""

CORES_PER_PROCESSOR = 4
"""With GPUs there is by default not more than one processor for so many cores: an engine on a GPU
uses one core, and a processor that is busy another one."""

ACCESS_LOG_LEVELS = (None, "info", "debug")
"""Values of ``--log-level`` at which lines of level INFO are shown."""

LOGGING_PROMPTS = ("--enable-log-requests", "--enable-log-outputs")
"""Options of vLLM that write text of requests into the log."""


def resolve(typed: Typed, machine: Machine) -> ServeConfig:
    """Make the plan. The path of the model is still its name as typed.

    Raises:
        UsageError: options contradict each other.
        ResourceError: the machine lacks resources.
    """
    _refuse_prompts_in_the_log(typed)
    check_context(typed)
    resolve_cluster.check(typed)
    simulation = simulation_of(typed)
    kv_transfer = _kv_transfer(typed, machine)
    seats: Seats | None = None
    if machine.cluster is not None:
        machine, seats = _on_cluster(typed, machine, kv_transfer, simulated=simulation is not None)
    elif simulation is not None:
        machine = replace(machine, gpus=())  # simulated engines need none
    elif not machine.gpus:
        _refuse_a_build_for_gpus(machine)
        refuse_what_a_cpu_cannot(typed)
    cache = host_cache(typed, machine, kv_transfer)
    if seats is not None:
        prefill_devices, devices = list(seats.prefill_workers), list(seats.workers)
        workers, worker_gpus = len(devices), tuple(gpu.device for gpu in machine.gpus)
    else:
        prefill_devices, devices, worker_gpus = _devices(typed, machine)
        workers = len(devices)
    share = workers if seats is None else seats.most
    names = _names(typed)
    placed = [*prefill_devices, *devices]
    left = replace(machine, available_bytes=available_beside(cache, machine))
    return ServeConfig(
        engine=engine_config(typed, left, share, placed, names, kv_transfer, simulation),
        frontend=_frontend(typed, names),
        processors=_processors(typed, workers, machine),
        router=_router(typed, workers),
        host_cache=cache,
        debug_headers=typed.debug_headers,
        engine_devices=tuple(devices),
        worker_tp=typed.worker_tp,
        prefill_tp=typed.prefill_tp,
        prefill_devices=tuple(prefill_devices),
        gpus=tuple(worker_gpus),
        placement=_placement(typed),
        prefill_queue=_prefill_queue(typed, kv_transfer, on_cluster=seats is not None),
        worker_timeout_s=typed.worker_timeout_s,
        drain_timeout_s=typed.drain_timeout_s,
        cluster=seats.plan if seats is not None else None,
    )


def _prefill_queue(typed: Typed, kv_transfer: str, *, on_cluster: bool) -> PrefillQueueConfig:
    within_machine = on_cluster and kv_transfer == "shm"
    return PrefillQueueConfig(typed.prefill_alarm_s, within_machine=within_machine)


def _on_cluster(
    typed: Typed, machine: Machine, kv_transfer: str, *, simulated: bool
) -> tuple[Machine, Seats]:
    """The machine with the cores, memory and GPUs that its engines have in the cluster, of the
    smallest node; and their nodes."""
    assert machine.cluster is not None
    if typed.workers != AUTO:
        _count("--workers", typed.workers)
    on_gpus = machine.needs_gpu and not simulated
    if not on_gpus and not simulated:
        refuse_what_a_cpu_cannot(typed)
    pairs = kv_transfer == "shm"
    found = resolve_cluster.seats(typed, machine.cluster, on_gpus=on_gpus, pairs=pairs)
    used = dict.fromkeys(one for group in (*found.prefill_workers, *found.workers) for one in group)
    cores = min(max(node.cores, 1) for node in found.plan.nodes)
    memory = min(node.memory_bytes or machine.available_bytes for node in found.plan.nodes)
    here = replace(machine, available_bytes=memory, total_bytes=0)  # each node checks its own total
    return replace(here, gpus=tuple(map(Gpu, used)), cores=min(cores, machine.cores)), found


def _devices(typed: Typed, machine: Machine) -> tuple[list[Devices], list[Devices], Devices]:
    """The GPUs of this machine for each prefill worker and each worker, and those for workers."""
    # A given number of workers takes the GPUs in order, even busy ones; `auto` only free ones.
    auto = typed.workers == AUTO
    gpus = [gpu.device for gpu in machine.gpus if gpu.free or not auto]
    workers = (
        max(1, len(groups_of(typed.worker_tp * stages_of(typed), gpus)))
        if auto
        else _count("--workers", typed.workers)
    )
    if machine.gpus and not gpus:
        raise ResourceError(
            "every GPU is in use by other processes; --workers 1 uses one nevertheless."
        )
    prefill, devices, left = devices_of(typed, workers, gpus)
    return prefill, devices, tuple(left)


def _frontend(typed: Typed, names: tuple[str, ...]) -> FrontendConfig:
    return FrontendConfig(
        host=listen_host(typed.host),
        port=typed.http_port,
        api_keys=api_keys(typed.api_keys),
        max_body_bytes=typed.max_body_bytes,
        max_inflight=typed.max_inflight,
        keepalive_s=typed.keepalive_s,
        origins=origin_rules(
            typed.allowed_hosts or (),
            typed.allowed_origins or (),
            typed.allowed_methods or (),
            typed.allowed_headers or (),
            credentials=typed.allow_credentials,
        ),
        served_names=names,
        admin=_admin(typed),
        access_log=typed.access_log and typed.log_level in ACCESS_LOG_LEVELS,
        log_prompts=typed.log_prompts,
        otlp_endpoint=otlp_endpoint(typed.otlp_endpoint) if typed.otlp_endpoint else "",
        placement=_placement(typed) if typed.prefill_workers else None,
        migration=MigrationRule(
            typed.migration_limit, typed.migration_timeout_s, typed.first_token_timeout_s
        ),
        record=str(typed.record or ""),
    )


def warnings(typed: Typed) -> list[str]:
    """Warnings about a plan that works, but has risks."""
    if typed.host not in LOOPBACK and not typed.api_keys:
        return [
            f"--host {typed.host} lets everybody who reaches this machine use the model; "
            "--api-key restricts that."
        ]
    return []


def _refuse_a_build_for_gpus(machine: Machine) -> None:
    if machine.needs_gpu:
        raise ResourceError(
            "the installed vLLM is the build for GPUs, and there is none that may be used: see "
            "nvidia-smi and CUDA_VISIBLE_DEVICES; make serve ENGINE=cpu installs the build for "
            "CPUs."
        )


def _admin(typed: Typed) -> bool:
    if typed.enable_admin and not typed.api_keys:
        raise UsageError(
            "--enable-admin needs an --api-key, by which its users identify themselves."
        )
    return typed.enable_admin


def _kv_transfer(typed: Typed, machine: Machine) -> str:
    """How KV blocks get from prefill workers to workers."""
    alike = typed.worker_tp == typed.prefill_tp
    chosen = typed.kv_transfer or ("nixl" if machine.nixl and not alike else "shm")
    if not typed.prefill_workers:
        _refuse_disaggregation_without_prefill_workers(typed)
    elif chosen == "nixl" and not machine.nixl:
        raise UsageError(
            "--kv-transfer nixl needs the package nixl, which is not installed; "
            "--kv-transfer shm needs nothing."
        )
    elif chosen == "shm" and not alike:
        raise UsageError(
            f"--kv-transfer shm needs equal --prefill-tp ({typed.prefill_tp}) and --worker-tp "
            f"({typed.worker_tp}), since they split KV blocks; use --kv-transfer nixl."
        )
    return chosen


def _refuse_disaggregation_without_prefill_workers(typed: Typed) -> None:
    for flag, value, default in (
        ("--prefill-tp", typed.prefill_tp, 1),
        ("--conditional-disagg", typed.conditional_disagg, False),
        ("--max-local-prefill-length", typed.max_local_prefill_length, None),
        ("--max-prefill-queue-size", typed.max_prefill_queue_size, None),
        ("--kv-transfer", typed.kv_transfer, None),
    ):
        if value != default:
            raise UsageError(f"{flag} works only with --prefill-workers.")


def _refuse_prompts_in_the_log(typed: Typed) -> None:
    """Refuse vLLM's own options that log prompts, unless that is allowed."""
    if is_given(typed.engine_args, *LOGGING_PROMPTS) and not typed.log_prompts:
        raise UsageError(
            f"{' and '.join(LOGGING_PROMPTS)} write text of requests into the log; "
            "add --log-prompts to allow that."
        )


def _placement(typed: Typed) -> PlacementRule:
    """A length given for local prefills implies ``--conditional-disagg``."""
    length = typed.max_local_prefill_length
    return PlacementRule(
        conditional=typed.conditional_disagg or length is not None,
        max_local_prefill_length=DEFAULT_MAX_LOCAL_PREFILL_LENGTH if length is None else length,
        max_prefill_queue_size=typed.max_prefill_queue_size,
    )


def _names(typed: Typed) -> tuple[str, ...]:
    """Names of the model in the API."""
    names = tuple(typed.served_names or (typed.model,))
    if typed.served_names and not all(name.strip() for name in names):
        raise UsageError("--served-model-name is empty; it is the name that clients send as model.")
    return names


def _count(flag: str, value: str) -> int:
    number = whole_number(value)
    if number is None or not 1 <= number <= limits.MAX_PROCESSES:
        raise UsageError(
            f"{flag} is a number from 1 to {limits.MAX_PROCESSES}, or {AUTO}; not {value!r}."
        )
    return number


def _processors(typed: Typed, workers: int, machine: Machine) -> int:
    """The number of processors. With several engines there are two by default, so that requests
    survive the death of a processor as they survive that of an engine, and on GPUs one for each
    engine, because one is nearly busy with the tokens of two, but `PROCESSORS_OF_ONE` at least."""
    if typed.processors != AUTO:
        return _count("--processors", typed.processors)
    least = SEVERAL_PROCESSORS if workers + typed.prefill_workers > 1 else 1
    if not machine.gpus:
        return least
    wanted = max(min(workers, len(machine.gpus)), PROCESSORS_OF_ONE)
    return max(least, min(wanted, machine.cores // CORES_PER_PROCESSOR))


def _router(typed: Typed, workers: int) -> RouterConfig | None:
    if typed.router == NO_ROUTER and workers > 1:
        raise UsageError(
            f"--router none is for one worker; {workers} need one of {', '.join(ROUTER_POLICIES)}."
        )
    policy = typed.router or (SEVERAL_WORKERS_POLICY if workers > 1 else NO_ROUTER)
    given = RouterConfig(policy, typed.kv_cost, typed.kv_overlap_weight, typed.kv_temperature)
    if policy != KV_POLICY and given != RouterConfig(policy):
        raise UsageError(
            "--kv-cost, --kv-overlap-weight and --kv-temperature work only with --router kv."
        )
    return None if policy == NO_ROUTER else given
