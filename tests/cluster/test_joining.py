"""Nodes that join the cluster later: which are offered, and how they get into the plan. Pure."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import Future
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from dynamo_cli.cluster import process
from dynamo_cli.cluster.joining import offers, place_of
from dynamo_cli.cluster.process import Cluster
from dynamo_cli.cluster_config import Node
from dynamo_cli.errors import Conflict
from dynamo_cli.messages.cluster import NodesOffered, OutpostEnded, PlaceOutpost
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.cluster_tree import ClusterSupervisor, offer_of
from dynamo_cli.supervisor.scaling import rescaled
from dynamo_cli.topology import CLUSTER, ProcessId, Role
from tests.cluster.test_plan import places, planned


def node(name: str, gpus: int = 0, ray_id: str = "") -> Node:
    return Node(name, ray_id or f"id-of-{name}", "10.0.0.9", 16, gpus)


A, B, C = node("node-a", 2), node("node-b", 2), node("node-c", 4)
PLAN = {0: A, 1: B}
IDS = {0: A.ray_id, 1: B.ray_id}


@pytest.mark.parametrize(
    ("living", "offered"),
    [
        ([A, B], []),
        ([A, B, C], [C]),
        ([A, C], []),  # it takes the place of node-b
        ([A, C, node("node-d", 2)], [node("node-d", 2)]),
        ([A, node("small", 1)], [node("small", 1)]),  # it cannot
        ([A, B, node("node-b", 1, "other")], [node("node-b-2", 1, "other")]),
    ],
    ids=["none", "new", "replaces", "one replaces", "too small", "same name"],
)
def test_what_is_offered(living: list[Node], offered: list[Node]) -> None:
    assert offers(living, PLAN, IDS) == offered


def test_a_node_that_took_the_place_of_another_is_not_offered() -> None:
    assert offers([A, C], PLAN, {0: A.ray_id, 1: C.ray_id}) == []


def test_new_nodes_of_one_name_get_names_of_their_own() -> None:
    same = [replace(C, ray_id=ray_id) for ray_id in "yx"]
    assert [(one.name, one.ray_id) for one in offers([A, B, *same], PLAN, IDS)] == [
        ("node-c", "x"),
        ("node-c-2", "y"),
    ]


BACK = replace(node("node-b", 2, "back"), address="10.0.0.2")
LOST_B = replace(B, address=BACK.address)


@pytest.mark.parametrize(
    ("number", "machine", "ids", "living", "place"),
    [
        (1, B, IDS, [C, A, B], B.ray_id),
        (1, B, IDS, [A, node("small", 1), C], C.ray_id),
        (1, LOST_B, IDS, [A, C, BACK], "back"),
        (1, B, IDS, [A, node("small", 1)], ""),
        (2, C, IDS, [A, B, C], C.ray_id),
        (2, C, {0: A.ray_id, 1: C.ray_id}, [A, C], ""),
        (2, C, {0: A.ray_id, 1: C.ray_id}, [A, C, node("node-d", 4)], "id-of-node-d"),
        (1, B, {0: A.ray_id, 1: C.ray_id, 2: ""}, [A, C], C.ray_id),
        (2, C, {0: A.ray_id, 1: B.ray_id, 2: ""}, [A, B, C], C.ray_id),
    ],
    ids=["stays", "moves", "back", "nobody", "new", "taken", "takes another", "keeps", "later"],
)
def test_which_node_one_of_the_plan_is_now(
    number: int, machine: Node, ids: dict[int, str], living: list[Node], place: str
) -> None:
    assert place_of(number, machine, ids, living) == place


def simulated_ray(monkeypatch: pytest.MonkeyPatch, living: list[Node]) -> list[str]:
    """A Ray that starts nothing; returns where outposts are placed."""
    placed: list[str] = []
    actor = MagicMock()
    actor.options = lambda scheduling_strategy, **_: (
        placed.append(scheduling_strategy) or MagicMock()
    )
    errors = SimpleNamespace(RayError=LookupError)
    fake = SimpleNamespace(remote=lambda _: actor, kill=lambda _: None, exceptions=errors)
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda ray_id, soft: ray_id)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    monkeypatch.setattr(process, "living", lambda: [asdict(one) for one in living])
    return placed


def test_what_becomes_of_an_outpost_that_was_replaced_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulated_ray(monkeypatch, [A])
    control: Any = MagicMock(closed=False)
    run = Cluster(CLUSTER, SimpleNamespace(nodes=(A,)), control)  # type: ignore[arg-type]
    control.receive.return_value = [(PlaceOutpost(0, A, b""), [])]
    failed: Future[Any] = Future()
    failed.set_exception(RuntimeError("killed"))
    run._on_control()
    first = run._outposts[0]
    run._on_control()
    for told in (run._started, run._over):
        told(0, first, failed)
    sent = [call.args[0] for call in control.send.call_args_list]
    assert not any(isinstance(one, OutpostEnded) for one in sent)
    run._started(0, run._outposts[0], failed)
    assert [call.args[0] for call in control.send.call_args_list][len(sent) :] == [
        OutpostEnded(0, "killed")
    ]


def test_an_outpost_that_cannot_be_placed_because_ray_does_not_answer_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The supervisor places an outpost again when it hears that it has ended."""
    simulated_ray(monkeypatch, [A])

    def no_answer() -> list[Node]:
        raise RuntimeError("Failed to connect to GCS")

    monkeypatch.setattr(process, "_living", no_answer)
    control: Any = MagicMock(closed=False)
    run = Cluster(CLUSTER, SimpleNamespace(nodes=(A,)), control)  # type: ignore[arg-type]
    control.receive.return_value = [(PlaceOutpost(0, A, b""), [])]
    run._on_control()
    assert control.send.call_args.args[0] == OutpostEnded(0, "Failed to connect to GCS")


def test_an_offered_node_is_given_to_one_node_of_the_run_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is offered, takes the place of a lost one, and only then comes the order to use it."""
    living = [A, B, C]
    placed = simulated_ray(monkeypatch, living)
    control: Any = MagicMock(closed=False)
    run = Cluster(CLUSTER, SimpleNamespace(nodes=(A, B)), control)  # type: ignore[arg-type]
    control.send_state = control.send
    run._seen(living)
    living.remove(B)
    orders = [PlaceOutpost(1, B, b""), PlaceOutpost(2, C, b"")]
    control.receive.return_value = [(order, []) for order in orders]
    run._on_control()
    assert placed == [C.ray_id]
    assert [call.args[0] for call in control.send.call_args_list[1:]] == [
        NodesOffered([C]),
        NodesOffered([]),
        OutpostEnded(2, process.NO_PLACE),
    ]


def offering(config: ServeConfig, *nodes: Node) -> ServeConfig:
    assert config.cluster is not None
    return replace(config, cluster=replace(config.cluster, offered=nodes))


def test_a_new_worker_brings_an_offered_node_into_the_plan() -> None:
    config = planned(2, workers="2", router="kv", enable_admin=True, api_keys=("k",))
    small, large = node("small", 1), node("large", 2)
    config = offering(config, node("tiny", 0), small, large)
    three, five = rescaled(config, 3), rescaled(config, 5)
    assert places(three)[2:] == ["gpu 0 @ small"]
    assert three.cluster is not None
    assert [one.name for one in three.cluster.offered] == ["tiny", "large"]
    assert places(five)[2:] == ["gpu 0 @ small", "gpu 0 @ large", "gpu 1 @ large"]
    assert places(rescaled(three, 5)) == places(five)
    assert five.cluster is not None
    assert [one.name for one in five.cluster.nodes] == ["node-0", "small", "large"]
    relays = [one.name for one in five.tree() if one.role is Role.RELAY]
    assert relays == ["relay 0", "relay 1", "relay 2"]
    with pytest.raises(Conflict, match="let another node join it with ray start"):
        rescaled(five, 6)
    fewer = rescaled(five, 1)
    assert fewer.cluster is not None
    assert fewer.cluster.nodes == five.cluster.nodes, "their numbers stay"
    assert sorted(places(rescaled(fewer, 5))) == sorted(places(five))


def test_a_new_worker_goes_to_a_lost_node_only_if_no_other_can_take_it() -> None:
    config = planned(2, workers="2", router="kv", enable_admin=True, api_keys=("k",))
    config = offering(config, node("late", 1))
    one = rescaled(config, 1)
    assert places(rescaled(one, 2, {"late"})) == ["gpu 0 @ node-0", "gpu 1 @ node-0"]
    assert places(rescaled(one, 3, {"node-0"}))[1:] == ["gpu 0 @ late", "gpu 1 @ node-0"]


def test_an_offered_node_gets_its_own_host_cache() -> None:
    options = {"workers": "1", "router": "kv", "host_cache": "1GiB"}
    config = planned(1, **options, enable_admin=True, api_keys=("k",))
    more = rescaled(offering(config, node("late", 1)), 2)
    cache = ProcessId(Role.HOST_CACHE, 2)
    assert cache in more.tree()
    assert more.device_of(cache) == "@ late"
    assert more.worker_config(1).machine == 2


def test_the_log_says_what_can_be_done_with_it() -> None:
    assert "has 4 free GPUs: POST /dynamo/workers" in offer_of(C, can=True)
    assert "--enable-admin" in offer_of(node("x", 1), can=False)
    assert "1 free GPU:" in offer_of(node("x", 1), can=False)
    assert "GPU" not in offer_of(node("x"), can=True)


def test_the_supervisor_offers_what_is_of_use_and_not_yet_in_the_plan() -> None:
    """Until its outpost is placed, a node that is in the plan still counts as unused."""
    shown: list[str] = []
    view: Any = SimpleNamespace(
        notice=lambda level, text: shown.append(text), processes=lambda table: None
    )

    async def scenario() -> None:
        config = planned(1, workers="1", router="kv", enable_admin=True, api_keys=("k",))
        run = ClusterSupervisor(config, view)
        late = node("late", 1)
        for _ in range(2):
            run._on_offered((late, node("without", 0)))
            assert run._offered() == {"late": 1}
        assert [text.split()[0] for text in shown] == ["late"], "once, and only what is of use"
        run._config = rescaled(run._config, 2)
        run._on_offered((late,))
        assert run._offered() == {}
        run._background.cancel()

    asyncio.run(scenario())
