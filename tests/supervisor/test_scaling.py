"""Plans with more or fewer workers, and the retirement of workers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.config import (
    MOST_WORKERS,
    Device,
    Devices,
    EngineConfig,
    FrontendConfig,
    RouterConfig,
)
from dynamo_cli.errors import Conflict, InvalidRequest
from dynamo_cli.messages.lifecycle import Phase, Rescaled, Retire, SetPhase, Stop
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.retirement import Retirements
from dynamo_cli.supervisor.scaling import rescaled
from dynamo_cli.supervisor.tree import Supervisor
from dynamo_cli.topology import HOST_CACHE, ProcessId, Role

WORKER, PROCESSOR = ProcessId(Role.WORKER, 1), ProcessId(Role.PROCESSOR, 0)
OTHER_PROCESSOR, ROUTER = ProcessId(Role.PROCESSOR, 1), ProcessId(Role.ROUTER)


def gpus(*numbers: int) -> Devices:
    return tuple(Device(str(number), f"GPU-{number}") for number in numbers)


def plan(devices: tuple[tuple[int, ...], ...] = ((),), **more: Any) -> ServeConfig:
    options = {"router": RouterConfig("kv"), "engine_devices": tuple(gpus(*one) for one in devices)}
    if "gpus" in more:
        options["gpus"] = gpus(*more.pop("gpus"))
    if "prefill_devices" in more:
        options["prefill_devices"] = tuple(gpus(*one) for one in more.pop("prefill_devices"))
    options |= more
    return ServeConfig(EngineConfig("tiny", "tiny", ("tiny",)), FrontendConfig(), **options)


@pytest.mark.parametrize(
    ("config", "count", "devices"),
    [
        (plan(), 3, ((), (), ())),
        (plan(((), (), ())), 1, ((),)),
        (plan(((0,),), gpus=(0, 1, 2)), 3, ((0,), (1,), (2,))),
        (plan(((0, 1),), gpus=(0, 1, 2, 3, 4)), 2, ((0, 1), (2, 3))),
        (plan(((1,),), prefill_devices=((0,),), gpus=(1, 2)), 2, ((1,), (2,))),
        (plan(((0,), (1,), (2,)), gpus=(0, 1, 2)), 2, ((0,), (1,))),
        (plan(router=None), 1, ((),)),
    ],
)
def test_new_workers_get_devices_that_no_engine_has(
    config: ServeConfig, count: int, devices: tuple[tuple[int, ...], ...]
) -> None:
    expected = tuple(gpus(*one) for one in devices)
    assert rescaled(config, count).engine_devices == expected


@pytest.mark.parametrize(
    ("config", "count", "error", "says"),
    [
        (plan(), 0, InvalidRequest, "from 1 to"),
        (plan(), MOST_WORKERS + 1, InvalidRequest, "from 1 to"),
        (plan(router=None), 2, Conflict, "start with --router"),
        (plan(((0,),), gpus=(0,)), 2, Conflict, "one more worker needs 1 GPU, "),
        (plan(((0, 1),), gpus=(0, 1, 2)), 2, Conflict, "one more worker needs 2 GPUs, "),
        (plan(((1,),), prefill_devices=((0,),), gpus=(0, 1)), 2, Conflict, "has an engine"),
    ],
)
def test_what_cannot_be_says_why(
    config: ServeConfig, count: int, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        rescaled(config, count)


@pytest.mark.parametrize(
    ("count", "said"), [(2, []), (3, ["the number of workers changes from 2 to 3"])]
)
def test_a_number_that_is_there_already_is_no_news(
    monkeypatch: pytest.MonkeyPatch, count: int, said: list[str]
) -> None:
    told: list[str] = []
    view: Any = SimpleNamespace(notice=lambda _, text: told.append(text))
    monkeypatch.setattr(Supervisor, "_start_workers", lambda self: None)
    monkeypatch.setattr(Supervisor, "_start_of", lambda self, process: Phase.READY)

    async def scenario() -> Rescaled:
        supervisor = Supervisor(plan(((), ())), view)
        supervisor._has_served = True
        return supervisor._rescale(count)

    assert asyncio.run(scenario()) == Rescaled(count)
    assert told == said


class FakeChild:
    """A child that records the messages sent to it."""

    def __init__(self, process: ProcessId, phase: Phase = Phase.READY) -> None:
        self.process = process
        self.phase = phase
        self.gone = asyncio.Event()
        self.told: list[Any] = []
        self.killed = 0
        self.control = SimpleNamespace(send=self.told.append)

    def move_to(self, phase: Phase, reason: str) -> None:
        self.phase = phase

    @property
    def alive(self) -> bool:
        return not self.gone.is_set()

    def kill(self) -> None:
        self.killed += 1
        self.gone.set()

    def end(self) -> None:
        self.kill()


def retire(retirements: Retirements, worker: FakeChild, *others: FakeChild) -> asyncio.Task[None]:
    work = retirements.retire(worker, others)  # type: ignore[arg-type]
    return asyncio.create_task(work)  # type: ignore[arg-type]


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_worker_stops_when_nobody_uses_it() -> None:
    async def scenario() -> None:
        retirements = Retirements(60, 60)
        worker, router = FakeChild(WORKER), FakeChild(ROUTER)
        processors = FakeChild(PROCESSOR), FakeChild(OTHER_PROCESSOR)
        task = retire(retirements, worker, router, *processors)
        assert WORKER in retirements
        assert worker.phase is Phase.DRAINING
        assert [other.told for other in (router, *processors)] == [[Retire(1)]] * 3
        await settled()
        retirements.released(PROCESSOR, WORKER)
        await settled()
        assert worker.told == [SetPhase(Phase.DRAINING)]
        retirements.ended(OTHER_PROCESSOR)  # a processor that has ended uses no worker
        await settled()
        assert worker.told == [SetPhase(Phase.DRAINING), Stop()]
        assert not worker.killed
        worker.gone.set()
        await task
        retirements.ended(WORKER)
        assert WORKER not in retirements

    asyncio.run(scenario())


@pytest.mark.parametrize(("drain_s", "stop_s"), [(0.01, 60), (60, 0.01)])
def test_time_runs_out(drain_s: float, stop_s: float) -> None:
    async def scenario() -> None:
        retirements = Retirements(drain_s, stop_s)
        worker = FakeChild(WORKER)
        task = retire(retirements, worker, FakeChild(PROCESSOR))
        await settled()
        if drain_s > 1:
            retirements.released(PROCESSOR, WORKER)
            await task
            assert worker.killed
        else:
            while Stop() not in worker.told:
                await asyncio.sleep(0.005)
            worker.gone.set()
            await task

    asyncio.run(scenario())


def test_who_does_not_listen_yet_is_killed_at_once() -> None:
    async def scenario() -> None:
        worker = FakeChild(WORKER, Phase.LOADING)
        await retire(Retirements(60, 60), worker)
        assert worker.killed

    asyncio.run(scenario())


def test_a_new_host_cache_gets_links_to_workers_that_retire_too() -> None:
    async def scenario() -> None:
        retirements = Retirements(60, 60)
        worker, router = FakeChild(WORKER), FakeChild(ROUTER)
        task = retire(retirements, worker, router)
        children: Any = [worker, router]
        assert retirements.staying(children, PROCESSOR) == [router]
        for cache in (HOST_CACHE, ProcessId(Role.HOST_CACHE, 2)):  # of a node
            assert retirements.staying(children, cache) == [worker, router]
        worker.gone.set()
        await task

    asyncio.run(scenario())
