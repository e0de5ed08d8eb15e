"""Resolving typed options and the resources of a machine into a plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynamo_cli.config import Device, Devices, PlacementRule, RouterConfig
from dynamo_cli.errors import ResourceError, UsageError
from dynamo_cli.host.gpus import Gpu
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.resolve import resolve, warnings
from dynamo_cli.plan.typed import MOCK, Typed
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import GIB, MIB

CPU = Machine(cores=8, available_bytes=20 * GIB)
TYPED = Typed(model="tiny")


def with_gpus(count: int, *, busy: tuple[int, ...] = ()) -> Machine:
    gpus = (
        Gpu(Device(str(i), f"GPU-{i}"), "H100", 80 * GIB, 5 * GIB if i in busy else 10 * MIB)
        for i in range(count)
    )
    return replace(CPU, gpus=tuple(gpus))


def test_the_build_for_gpus_needs_one() -> None:
    """Simulated engines do not; without this, the error of an engine would be about its device."""
    machine = replace(CPU, needs_gpu=True)
    with pytest.raises(ResourceError, match=r"the build for GPUs, .* make serve ENGINE=cpu"):
        resolve(TYPED, machine)
    assert resolve(replace(TYPED, engine=MOCK), machine).engine_devices == ((),)
    assert resolve(TYPED, replace(with_gpus(1), needs_gpu=True)).engine_devices != ((),)


def numbers(placed: tuple[Devices, ...]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(device.name) for device in devices) for devices in placed)


@pytest.mark.parametrize(
    ("workers", "router", "gives"),
    [
        ("1", None, None),
        ("1", "none", None),
        ("1", "random", "random"),
        ("2", None, "least-loaded"),
        ("2", "round-robin", "round-robin"),
        ("1", "kv", "kv"),
        ("3", "kv", "kv"),
    ],
)
def test_the_router_runs_when_asked_for_or_needed(
    workers: str, router: str | None, gives: str | None
) -> None:
    config = resolve(replace(TYPED, workers=workers, router=router), CPU)
    assert (config.router.policy if config.router else None) == gives
    assert config.kv_routing == (gives == "kv")
    assert (ProcessId(Role.ROUTER) in config.tree()) == (gives is not None)


@pytest.mark.parametrize(
    ("processors", "workers", "prefill_workers", "gives"),
    [
        ("auto", "1", 0, 1),
        ("auto", "2", 0, 2),
        ("auto", "1", 1, 2),
        ("auto", "8", 2, 2),
        ("1", "2", 0, 1),
        ("3", "1", 0, 3),
    ],
)
def test_several_engines_have_two_processors(
    processors: str, workers: str, prefill_workers: int, gives: int
) -> None:
    changes = {"processors": processors, "workers": workers, "prefill_workers": prefill_workers}
    config = resolve(replace(TYPED, **changes), CPU)  # type: ignore[arg-type]
    assert config.processors == gives
    assert ProcessId(Role.PROCESSOR, gives - 1) in config.tree()


@pytest.mark.parametrize(
    ("workers", "prefill_workers", "gpus", "cores", "gives"),
    [
        ("1", 0, 1, 16, 3),
        ("1", 0, 1, 8, 2),
        ("1", 0, 1, 4, 1),
        ("2", 0, 2, 32, 3),
        ("auto", 0, 8, 128, 8),
        ("auto", 0, 8, 16, 4),  # not more than one for four cores
        ("auto", 0, 8, 4, 2),  # but two, so that one can take over from the other
        ("1", 3, 4, 64, 3),  # tokens come from workers alone
        ("4", 4, 8, 64, 4),
        ("4", 0, 1, 64, 3),  # four engines on one GPU are not faster than one
    ],
)
def test_on_gpus_there_are_processors_for_the_engines_and_cores(
    workers: str, prefill_workers: int, gpus: int, cores: int, gives: int
) -> None:
    typed = replace(TYPED, workers=workers, prefill_workers=prefill_workers, reuse_gpus=gpus == 1)
    machine = replace(with_gpus(gpus), cores=cores)
    assert resolve(typed, machine).processors == gives


def test_the_parameters_of_kv_reach_the_router() -> None:
    changes = {"kv_cost": "shares", "kv_overlap_weight": 2.0, "kv_temperature": 0.5}
    typed = replace(TYPED, router="kv", debug_headers=True, **changes)  # type: ignore[arg-type]
    config = resolve(typed, CPU)
    assert config.router == RouterConfig("kv", "shares", 2.0, 0.5)
    assert config.debug_headers


@pytest.mark.parametrize(
    ("words", "gives"),
    [
        ((), ()),
        (("https://a", "https://b"), ("https://a", "https://b")),
        (('["https://a", "https://b"]',), ("https://a", "https://b")),
        (
            ('["https://a"', '"https://b"]'),
            ("https://a", "https://b"),
        ),  # as the commas of a variable split it
        (('["https://a"]', '["https://b"]'), ("https://a", "https://b")),
        (('["*"]',), ("*",)),
    ],
)
def test_lists_are_words_or_json_as_in_vllm(words: tuple[str, ...], gives: tuple[str]) -> None:
    config = resolve(replace(TYPED, allowed_origins=words), CPU)
    assert config.frontend.origins.origins == gives


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"allowed_origins": ("chat.example",)}, "takes addresses like https://chat.example.com"),
        ({"allowed_origins": ("https://a/b",)}, "not 'https://a/b'"),
        ({"allowed_origins": ("[1]",)}, "--allowed-origins takes words, or a list of them in JSON"),
        (
            {"allowed_origins": ('["a"',)},
            "--allowed-origins takes words, or a list of them in JSON",
        ),
        ({"allowed_hosts": ("http://a",)}, "--allowed-hosts takes names"),
        ({"allow_credentials": True}, "work only with --allowed-origins"),
        ({"workers": "0"}, "--workers is a number"),
        ({"workers": "two"}, "not 'two'"),
        ({"processors": "0"}, "--processors is a number from 1 to"),
        ({"processors": "1" * 5000}, "--processors is a number from 1 to"),
        ({"workers": "1" * 5000}, "--workers is a number from 1 to"),
        ({"processors": "two"}, "or auto; not 'two'"),
        ({"enable_admin": True}, "--enable-admin needs an --api-key"),
        ({"workers": "2", "router": "none"}, "--router none is for one worker"),
        ({"workers": "2", "kv_temperature": 0.5}, "work only with --router kv"),
        ({"prefill_tp": 2}, "--prefill-tp works only with --prefill-workers"),
        ({"conditional_disagg": True}, "--conditional-disagg works only with --prefill-workers"),
        ({"max_local_prefill_length": 9}, "--max-local-prefill-length works only with"),
        ({"max_prefill_queue_size": 2}, "--max-prefill-queue-size works only with"),
        ({"kv_transfer": "shm"}, "--kv-transfer works only with --prefill-workers"),
        ({"prefill_workers": 1, "kv_transfer": "nixl"}, "needs the package nixl"),
        ({"prefill_workers": 1, "prefill_tp": 2}, r"needs equal --prefill-tp \(2\) and"),
    ],
)
def test_what_cannot_be_is_a_usage_error(changes: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        resolve(replace(TYPED, **changes), CPU)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("workers", "threads", "limit_mib"),
    [("1", 8, 4096), ("2", 4, 4096), ("4", 2, 2048), ("16", 1, 512), ("200", 1, 64)],
)
def test_cpu_engines_share_cores_and_memory(workers: str, threads: int, limit_mib: int) -> None:
    engine = resolve(replace(TYPED, workers=workers), CPU).engine
    assert (engine.threads, engine.kv_cache_limit_bytes) == (threads, limit_mib * MIB)


@pytest.mark.parametrize(
    ("given", "args", "gpus", "tokens"),
    [
        (None, (), 1, 2048),
        (None, (), 0, 512),
        (300, (), 1, 300),
        (0, (), 1, 0),
        (None, ("--max-num-batched-tokens", "4096"), 1, 0),
        (None, ("--long-prefill-token-threshold=1000",), 0, 0),
        (700, ("--max-num-batched-tokens", "4096"), 1, 700),
    ],
)
def test_steps_compute_fewer_prompt_tokens_while_answers_stream(
    given: int | None, args: tuple[str, ...], gpus: int, tokens: int
) -> None:
    typed = replace(TYPED, prefill_chunk_tokens=given, engine_args=args)
    assert resolve(typed, with_gpus(gpus) if gpus else CPU).engine.prefill_chunk_tokens == tokens


def test_simulated_engines_compute_what_their_profile_says() -> None:
    typed = replace(TYPED, engine="mock")
    assert resolve(typed, CPU).engine.prefill_chunk_tokens == 0
    assert resolve(replace(typed, prefill_chunk_tokens=9), CPU).engine.prefill_chunk_tokens == 9


def test_engine_threads_can_be_given() -> None:
    assert resolve(replace(TYPED, engine_threads=3), CPU).engine.threads == 3


@pytest.mark.parametrize(
    ("given", "eager"),
    [
        ((), True),
        (("--no-enforce-eager",), False),
        (("--optimization-level", "2"), False),
        (("-cc.mode=3",), False),
    ],
)
def test_cpu_engines_compile_only_when_told(given: tuple[str, ...], eager: bool) -> None:
    args = resolve(replace(TYPED, engine_args=given), CPU).engine.args
    assert ("--enforce-eager" in args) is eager


def test_our_options_reach_the_engine_under_its_names_before_the_rest() -> None:
    typed = replace(
        TYPED, max_model_len="4k", block_size=32, worker_tp=2, engine_args=("--seed", "1")
    )
    assert resolve(typed, with_gpus(2)).engine.args == (
        *("--max-model-len", "4k", "--block-size", "32"),
        *("--scheduling-policy", "priority", "--seed", "1"),
    )


def test_requests_have_priorities_unless_told_otherwise() -> None:
    args = resolve(replace(TYPED, engine_args=("--scheduling-policy", "fcfs")), CPU).engine.args
    assert args.count("--scheduling-policy") == 1
    assert "fcfs" in args


@pytest.mark.parametrize(
    ("workers", "width", "devices"),
    [
        ("1", 1, ((0,),)),
        ("2", 2, ((0, 1), (2, 3))),
        ("auto", 1, ((0,), (1,), (2,), (3,))),
        ("auto", 2, ((0, 1), (2, 3))),
        ("auto", 3, ((0, 1, 2),)),
    ],
)
def test_gpus_are_given_in_order(
    workers: str, width: int, devices: tuple[tuple[int, ...], ...]
) -> None:
    config = resolve(replace(TYPED, workers=workers, worker_tp=width), with_gpus(4))
    assert numbers(config.engine_devices) == devices
    assert config.engine.threads == 0


def test_auto_leaves_busy_gpus_alone() -> None:
    config = resolve(replace(TYPED, workers="auto"), with_gpus(3, busy=(1,)))
    assert numbers(config.engine_devices) == ((0,), (2,))
    with pytest.raises(ResourceError, match="every GPU is in use"):
        resolve(replace(TYPED, workers="auto"), with_gpus(1, busy=(0,)))


def test_auto_is_one_on_the_cpu() -> None:
    assert resolve(replace(TYPED, workers="auto"), CPU).engine_devices == ((),)


def test_too_few_gpus_is_an_error_unless_they_are_shared() -> None:
    typed = replace(TYPED, workers="3")
    with pytest.raises(ResourceError, match=r"need 3 GPUs, and 2 may be used.*--reuse-gpus"):
        resolve(typed, with_gpus(2))
    config = resolve(replace(typed, reuse_gpus=True), with_gpus(2))
    assert numbers(config.engine_devices) == ((0,), (1,), (0,))
    assert config.engine.args[-2:] == ("--gpu-memory-utilization", "0.450")


def test_a_group_that_is_too_wide_cannot_be_shared_into_being() -> None:
    with pytest.raises(ResourceError, match=r"need 4 GPUs, and 2 may be used"):
        resolve(replace(TYPED, worker_tp=4, reuse_gpus=True), with_gpus(2))


def test_ranks_of_cpu_engines_share_the_cores() -> None:
    config = resolve(replace(TYPED, worker_tp=2, workers="2"), CPU)
    assert config.engine_devices == ((), ())
    assert config.worker_config(0).engine.tensor_parallel == 2
    assert config.engine.threads == 2


@pytest.mark.parametrize("stages", [("--pipeline-parallel-size", "2"), ("-pp=2",)])
def test_pipeline_stages_need_gpus_of_their_own(stages: tuple[str, ...]) -> None:
    typed = replace(TYPED, workers="2", worker_tp=2, engine_args=stages)
    assert numbers(resolve(typed, with_gpus(8)).engine_devices) == ((0, 1, 2, 3), (4, 5, 6, 7))
    with pytest.raises(ResourceError, match="need 8 GPUs, and 7"):
        resolve(typed, with_gpus(7))


def test_each_kind_of_worker_has_its_own_ranks() -> None:
    typed = replace(TYPED, prefill_workers=1, prefill_tp=2, kv_transfer="nixl")
    config = resolve(typed, replace(with_gpus(3), nixl=True))
    assert numbers((*config.prefill_devices, *config.engine_devices)) == ((0, 1), (2,))
    assert config.prefill_worker_config(0).engine.tensor_parallel == 2
    assert config.worker_config(0).engine.tensor_parallel == 1
    assert config.processor_config.engine.tensor_parallel == 1


@pytest.mark.parametrize(
    ("model", "args", "bounded"),
    [
        ("tiny", (), True),
        ("demo", (), True),
        ("demo", ("--gpu-memory-utilization", "0.5"), False),
        ("demo", ("--kv-cache-memory-bytes=1G",), False),
        ("a/model", (), False),
    ],
)
def test_what_comes_with_the_package_does_not_fill_a_gpu(
    model: str, args: tuple[str, ...], bounded: bool
) -> None:
    config = resolve(replace(TYPED, model=model, engine_args=args), with_gpus(1))
    assert bool(config.engine.kv_cache_limit_bytes) is bounded


def test_names_default_to_what_was_typed() -> None:
    assert resolve(TYPED, CPU).engine.served_names == ("tiny",)
    config = resolve(replace(TYPED, served_names=["a", "b"]), CPU)
    assert config.engine.served_names == config.frontend.served_names == ("a", "b")


@pytest.mark.parametrize(
    ("host", "keys", "warned"),
    [("127.0.0.1", (), 0), ("::1", (), 0), ("0.0.0.0", ("k",), 0), ("0.0.0.0", (), 1)],
)
def test_an_open_server_is_worth_a_warning(host: str, keys: tuple[str, ...], warned: int) -> None:
    assert len(warnings(replace(TYPED, host=host, api_keys=keys))) == warned


# -- disaggregation --------------------------------------------------------------------------


def test_prefill_workers_get_the_first_gpus() -> None:
    typed = replace(TYPED, workers="2", prefill_workers=1)
    config = resolve(typed, with_gpus(3))
    assert numbers(config.prefill_devices) == ((0,),)
    assert numbers(config.engine_devices) == ((1,), (2,))
    assert config.device_of(ProcessId(Role.PREFILL_WORKER)) == "gpu 0"
    with pytest.raises(ResourceError, match=r"1 prefill workers and 2 workers need 3 GPUs, and 2"):
        resolve(typed, with_gpus(2))
    shared = resolve(replace(typed, reuse_gpus=True), with_gpus(2))
    assert numbers(shared.prefill_devices) == ((0,),)
    assert numbers(shared.engine_devices) == ((0,), (1,))
    assert resolve(typed, CPU).prefill_devices == ((),)


def test_who_prefills_and_who_decodes() -> None:
    config = resolve(replace(TYPED, prefill_workers=2), CPU)
    names = [process.name for process in config.tree()]
    assert {"prefill queue", "prefill worker 0", "prefill worker 1", "worker 0"} <= set(names)
    assert config.prefill_worker_config(1).engine.kv_role == "kv_producer"
    assert config.worker_config(0).engine.kv_role == "kv_consumer"
    assert config.worker_config(0).placement == PlacementRule()
    assert resolve(TYPED, CPU).worker_config(0).placement is None
    assert all(ProcessId.parse(name).name == name for name in names)


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({}, PlacementRule(conditional=False)),
        ({"conditional_disagg": True}, PlacementRule(conditional=True)),
        ({"max_local_prefill_length": 64}, PlacementRule(True, 64)),
        (
            {"conditional_disagg": True, "max_prefill_queue_size": 0},
            PlacementRule(True, 1000, 0),
        ),
    ],
)
def test_a_local_bound_implies_a_condition(changes: dict[str, object], rule: PlacementRule) -> None:
    typed = replace(TYPED, prefill_workers=1, **changes)  # type: ignore[arg-type]
    assert resolve(typed, CPU).placement == rule


@pytest.mark.parametrize(
    ("nixl", "widths", "asked", "gets"),
    [
        (True, (1, 1), None, "shm"),
        (True, (2, 2), None, "shm"),
        (True, (1, 2), None, "nixl"),
        (True, (1, 1), "nixl", "nixl"),
        (False, (1, 1), None, "shm"),
    ],
)
def test_blocks_go_through_the_host_cache_where_that_is_possible(
    nixl: bool, widths: tuple[int, int], asked: str | None, gets: str
) -> None:
    typed = replace(TYPED, prefill_workers=1, kv_transfer=asked)
    typed = replace(typed, worker_tp=widths[0], prefill_tp=widths[1])
    config = resolve(typed, replace(with_gpus(4), nixl=nixl))
    assert config.engine.kv_transfer == gets
    assert (config.host_cache is not None) is (gets == "shm")


@pytest.mark.parametrize(
    ("changes", "engines", "access"),
    [
        ({}, "ERROR", True),
        ({"log_level": "debug"}, "DEBUG", True),
        ({"log_level": "warning"}, "WARNING", False),
        ({"access_log": False}, "ERROR", False),
    ],
)
def test_a_log_level_is_that_of_everything(
    changes: dict[str, object], engines: str, access: bool
) -> None:
    config = resolve(replace(TYPED, **changes), CPU)  # type: ignore[arg-type]
    assert (config.engine.log_level, config.frontend.access_log) == (engines, access)


def test_text_of_requests_is_logged_only_when_that_is_said() -> None:
    with pytest.raises(UsageError, match="add --log-prompts"):
        resolve(replace(TYPED, engine_args=("--enable-log-requests",)), CPU)
    config = resolve(replace(TYPED, engine_args=("--enable-log-outputs",), log_prompts=True), CPU)
    assert config.frontend.log_prompts
    assert config.processor_config.log_prompts


def test_traces_go_below_the_path_that_otlp_has_for_them() -> None:
    for given, used in (
        (None, ""),
        ("http://localhost:4318", "http://localhost:4318/v1/traces"),
        ("https://a.example/", "https://a.example/v1/traces"),
        ("http://a.example/otlp/traces", "http://a.example/otlp/traces"),
    ):
        config = resolve(replace(TYPED, otlp_endpoint=given), CPU)
        assert config.frontend.otlp_endpoint == used
    for wrong in ("localhost:4318", "grpc://a.example", "http://"):
        with pytest.raises(UsageError, match="--otlp-endpoint is the URL"):
            resolve(replace(TYPED, otlp_endpoint=wrong), CPU)
