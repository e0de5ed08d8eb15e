"""Which node runs what: pure tables."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynamo_cli.cli.dry_run import plan_of
from dynamo_cli.cluster_config import Node, Survey
from dynamo_cli.doctor import gather, rules
from dynamo_cli.doctor.cluster import judge
from dynamo_cli.doctor.facts import Facts
from dynamo_cli.errors import Conflict, ResourceError, UsageError
from dynamo_cli.plan import resolve_cluster
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.resolve import resolve
from dynamo_cli.plan.typed import Typed
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.scaling import rescaled
from dynamo_cli.topology import ProcessId, Role

GIB = 1 << 30


def machine(*gpus: int, needs_gpu: bool = True) -> Machine:
    """A head without GPUs of its own, and nodes with so many free ones."""
    nodes = tuple(
        Node(f"node-{number}", f"id-{number}", f"10.0.0.{number}", 16, free)
        for number, free in enumerate(gpus)
    )
    survey = Survey("10.0.0.0:6379", "10.0.0.0", nodes)
    return Machine(16, 64 * GIB, nixl=True, needs_gpu=needs_gpu, cluster=survey)


def planned(*gpus: int, needs_gpu: bool = True, **typed: object) -> ServeConfig:
    options = Typed("m", ray="auto", **typed)  # type: ignore[arg-type]
    return resolve(options, machine(*gpus, needs_gpu=needs_gpu))


def places(config: ServeConfig) -> list[str]:
    return [
        config.device_of(process)
        for process in config.tree()
        if process.role in (Role.WORKER, Role.PREFILL_WORKER)
    ]


@pytest.mark.parametrize(
    ("gpus", "typed", "expected"),
    [
        (
            (2, 2),
            {"workers": "auto"},
            ["gpu 0 @ node-0", "gpu 0 @ node-1", "gpu 1 @ node-0", "gpu 1 @ node-1"],
        ),
        ((1, 4), {"workers": "2"}, ["gpu 0 @ node-1", "gpu 1 @ node-1"]),
        ((2, 3), {"workers": "auto", "worker_tp": 2}, ["gpu 0,1 @ node-0", "gpu 0,1 @ node-1"]),
        (
            (2, 1),
            {"workers": "2", "prefill_workers": 1, "kv_transfer": "nixl"},
            ["gpu 0 @ node-0", "gpu 1 @ node-0", "gpu 0 @ node-1"],
        ),
        (
            (3, 0),
            {"workers": "1", "prefill_workers": 1, "prefill_tp": 2, "kv_transfer": "nixl"},
            ["gpu 0,1 @ node-0", "gpu 2 @ node-0"],
        ),
    ],
)
def test_each_engine_gets_gpus_of_one_node(
    gpus: tuple[int, ...], typed: dict[str, object], expected: list[str]
) -> None:
    assert places(planned(*gpus, **typed)) == expected


def test_engines_on_cpus_and_simulated_ones_are_spread() -> None:
    assert places(planned(0, 0, needs_gpu=False, workers="3")) == [
        "cpu @ node-0",
        "cpu @ node-1",
        "cpu @ node-0",
    ]
    assert len(places(planned(0, 0, workers="auto", engine="mock"))) == 2


@pytest.mark.parametrize(
    ("gpus", "typed", "expected"),
    [
        ((2, 1), {"prefill_workers": 2}, ["gpu 0 @ node-0", "gpu 0 @ node-1", "gpu 1 @ node-0"]),
        ((1, 2), {"prefill_workers": 1}, ["gpu 0 @ node-1", "gpu 1 @ node-1"]),
        (
            (2, 3),
            {"prefill_workers": 2, "workers": "auto"},
            [f"gpu {gpu} @ node-{node}" for gpu, node in ((0, 1), (0, 0), (1, 1), (1, 0), (2, 1))],
        ),
        (
            (0, 0),
            {"prefill_workers": 1, "workers": "2", "engine": "mock"},
            ["cpu @ node-0", "cpu @ node-0", "cpu @ node-1"],
        ),
    ],
)
def test_a_prefill_worker_of_shm_gets_a_worker_on_its_node_first(
    gpus: tuple[int, ...], typed: dict[str, object], expected: list[str]
) -> None:
    config = planned(*gpus, **typed)
    assert places(config) == expected
    assert config.prefill_queue.within_machine
    assert not planned(*gpus, **typed, kv_transfer="nixl").prefill_queue.within_machine


def test_without_room_for_both_on_one_node_shm_is_refused_by_name() -> None:
    with pytest.raises(ResourceError, match="shm works only within a node"):
        planned(1, 1, workers="1", prefill_workers=1)
    assert places(planned(1, 1, workers="1", prefill_workers=1, kv_transfer="nixl"))


def test_engines_that_cannot_hand_over_are_named() -> None:
    def told(transfer: str, **typed: object) -> list[str]:
        config = planned(2, 2, **typed, kv_transfer=transfer)
        assert config.cluster is not None
        return resolve_cluster.warnings(config.cluster, transfer)

    (alone,) = told("shm", workers="2", prefill_workers=1)
    assert alone.startswith("workers on node-1 prefill their prompts there: --kv-transfer shm")
    (idle,) = told("shm", workers="1", prefill_workers=2)
    assert idle.startswith("prefill workers on node-1 have nothing to do")
    assert told("shm", workers="2", prefill_workers=2) == []
    assert told("nixl", workers="2", prefill_workers=1) == []


def test_the_share_of_an_engine_is_that_of_the_fullest_node() -> None:
    """Engines of a node share its cores and its memory."""

    def seated(count: int) -> int:
        survey = machine(0, 0, needs_gpu=False).cluster
        assert survey is not None
        typed = Typed("m", ray="auto", workers=str(count))
        return resolve_cluster.seats(typed, survey, on_gpus=False).most

    assert [seated(count) for count in (1, 2, 3, 4, 5)] == [1, 1, 2, 2, 3]
    threads = [
        planned(0, 0, needs_gpu=False, workers=str(count)).engine.threads for count in (1, 2, 3, 8)
    ]
    assert threads[0] == threads[1] > threads[2] > threads[3]


def test_each_node_has_a_host_cache_that_only_its_engines_use() -> None:
    config = planned(2, 2, workers="4", host_cache="4GiB")
    caches = [one for one in config.tree() if one.role is Role.HOST_CACHE]
    assert [(one.name, config.device_of(one)) for one in caches] == [
        ("host cache 1", "@ node-0"),
        ("host cache 2", "@ node-1"),
    ]
    assert [config.worker_config(index).machine for index in range(4)] == [1, 2, 1, 2]
    links = [
        (link["from"], link["to"])
        for link in plan_of(config)["links"]  # type: ignore[attr-defined]
        if "find" in link["carries"]
    ]
    assert sorted(links) == [
        ("worker 0", "host cache 1"),
        ("worker 1", "host cache 2"),
        ("worker 2", "host cache 1"),
        ("worker 3", "host cache 2"),
    ]


def test_auto_takes_half_of_the_memory_of_the_smallest_node() -> None:
    def sized(*nodes: int) -> int:
        head = machine(1, 1)
        assert head.cluster is not None
        some = zip(head.cluster.nodes, nodes, strict=True)
        seen = tuple(replace(node, memory_bytes=size * GIB) for node, size in some)
        head = replace(head, cluster=replace(head.cluster, nodes=seen))
        typed = Typed("m", ray="auto", workers="2", host_cache="auto")
        cache = resolve(typed, head).host_cache
        assert cache is not None
        return cache.size_bytes // GIB

    assert sized(20, 100) == 10
    assert sized(0, 0) == 32, "what the head has, if the cluster does not say"


def test_only_the_gpus_of_this_run_are_claimed() -> None:
    """Those for workers that may be added later too, if they may."""

    def claims(config: ServeConfig) -> list[int]:
        assert config.cluster is not None
        return [node.gpus for node in config.cluster.nodes]

    assert claims(planned(4, 4, workers="1")) == [1]
    admin = {"workers": "1", "enable_admin": True, "api_keys": ("k",)}
    assert claims(planned(4, 4, **admin)) == [4, 4]
    assert claims(planned(4, 1, 0, **admin, worker_tp=2)) == [4]
    assert claims(planned(4, 0, needs_gpu=False, **admin)) == [0, 0]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ({"ray": "ray://10.0.0.1:10001"}, "HOST:PORT"),
        ({"ray": "somewhere"}, "HOST:PORT"),
        ({"ray": ":6379"}, "HOST:PORT"),
        ({"ray": "10.0.0.1:99999"}, "not '10.0.0.1:99999'"),
        ({"ray": "10.0.0.1:0"}, "HOST:PORT"),
        ({"reuse_gpus": True}, "--reuse-gpus"),
    ],
)
def test_what_does_not_go_with_a_cluster_is_refused_by_name(
    typed: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        resolve_cluster.check(Typed("m", **{"ray": "auto", **typed}))  # type: ignore[arg-type]


def test_too_few_gpus_are_an_error_that_counts_them() -> None:
    with pytest.raises(ResourceError, match="node-0 1, node-1 1"):
        planned(1, 1, workers="3")
    with pytest.raises(ResourceError, match="2 more free GPUs"):
        planned(1, 1, workers="1", worker_tp=2)
    with pytest.raises(ResourceError, match="1 more free GPUs"):
        planned(0, 0, workers="auto")


def test_a_new_worker_goes_to_the_node_with_the_fewest() -> None:
    config = planned(2, 2, workers="2", router="kv", enable_admin=True, api_keys=("k",))
    assert places(rescaled(config, 3))[2] == "gpu 1 @ node-0"
    lone = planned(2, 2, workers="1", router="kv", enable_admin=True, api_keys=("k",))
    assert places(rescaled(lone, 2))[1] == "gpu 0 @ node-1"
    more = rescaled(config, 4)
    assert places(more)[3] == "gpu 1 @ node-1"
    assert places(rescaled(more, 1)) == ["gpu 0 @ node-0"]
    with pytest.raises(Conflict, match="no node of the cluster has them"):
        rescaled(more, 5)


def test_relays_and_all_other_processes_stay_here() -> None:
    config = planned(1, 1, workers="2")
    assert config.node_of(ProcessId(Role.WORKER, 1)) is not None
    here = [one for one in config.tree() if one.role is not Role.WORKER]
    assert not any(map(config.node_of, here))
    assert [one.name for one in here][:4] == ["zygote", "cluster", "relay 0", "relay 1"]


def test_doctor_says_what_each_node_lacks() -> None:
    survey = machine(2, 0, 1).cluster
    assert survey is not None
    differs = {"node-2": "vLLM 0.31.0 (the head has 0.32.0)"}
    found = list(judge(survey, differs, None, needs_gpu=True))
    levels = [str(one.level) for one in found]
    assert levels == ["ok", "ok", "warn", "fail"]
    assert "0.31.0" in found[3].message
    assert {one.level for one in judge(survey, {}, None, needs_gpu=False)} == {found[0].level}
    assert next(judge(replace(survey, nodes=survey.nodes[1:2]), {}, None, needs_gpu=True)).remedy


def test_doctor_says_what_each_node_gets_to_do() -> None:
    config = planned(2, 2, 0, workers="3", host_cache="8GiB")
    survey = machine(2, 2, 0).cluster
    assert survey is not None
    memory = (32 * GIB, 4 * GIB, 4 * GIB)
    pairs = zip(survey.nodes, memory, strict=True)
    survey = replace(survey, nodes=tuple(replace(one, memory_bytes=has) for one, has in pairs))
    cluster, first, second, third = judge(survey, {}, config, needs_gpu=True)
    assert cluster.message == "3 nodes at 10.0.0.0:6379, 4 free GPUs"
    assert (str(first.level), first.message) == (
        "ok",
        "10.0.0.0, 16 cores, 32.0 GiB of memory, 2 free GPUs; 2 engines of this plan",
    )
    assert str(second.level) == "warn"
    assert "1 engine of this plan; --host-cache takes 8.0 GiB of it" in second.message
    assert (str(third.level), third.remedy) == ("warn", "no engine will run there")
    fewer = planned(2, 2, 0, workers="1", host_cache="8GiB")
    unused = [*judge(survey, {}, fewer, needs_gpu=True)][2]
    assert (str(unused.level), unused.message[-22:]) == ("ok", "0 engines of this plan")


def test_doctor_judges_the_head_without_engines_if_they_run_elsewhere() -> None:
    """A head of a cluster with GPUs needs none itself."""
    config = planned(2, 2, workers="4", host_cache="8GiB")
    packages = {"vllm": "0.32.0"}
    facts = Facts((3, 11), packages, machine=machine(2, 2), plan=config)
    assert facts.engines_here == 0
    assert [one.level for one in rules.gpus(facts)] == ["ok"]
    assert list(rules.host_cache(facts)) == []
    alone = replace(facts, machine=replace(machine(2), cluster=None))
    assert [one.level for one in rules.gpus(alone)] == ["fail"]


@pytest.mark.parametrize(
    ("parent", "ours"),
    [
        (["ray::Outpost.wait"], True),
        (["ray::Outpost"], True),
        (["ray::Other.run"], False),
        (["dynamo-llm: outpost"], True),
        (["/usr/bin/python3", "/usr/bin/dynamo-llm", "--ray", "auto"], True),
        (["/sbin/init"], False),
        ([""], False),
    ],
)
def test_doctor_takes_no_outpost_of_a_server_that_runs_for_a_leftover(
    parent: list[str], ours: bool
) -> None:
    assert gather._is_ours(parent) is ours


def test_without_a_cluster_nothing_changes() -> None:
    alone = replace(machine(), cluster=None, needs_gpu=False)
    config = resolve(Typed("m"), alone)
    assert config.cluster is None
    assert not {Role.RELAY, Role.CLUSTER} & {one.role for one in config.tree()}
