"""What processes use, read from the kernel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import msgspec
import pytest

from dynamo_cli.frontend.status import host as status_host
from dynamo_cli.frontend.status.host import HostMeter
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.load_schema import HostView

GONE = 2**22 + 1
"""No process can have this id."""


def process(pid: int, role: Role = Role.PROCESSOR) -> ProcessState:
    return ProcessState("it", role, 0, Phase.READY, "", pid, 0, 0, 0)


def compute(seconds: float) -> None:
    """Use so much CPU time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.fixture
def host() -> Iterator[HostMeter]:
    """What reads only when it is told."""
    made = HostMeter(tuple, lambda: HostView(record_free_bytes=7, unrecorded={"queue_full": 1}))
    yield made
    made.close()


def test_a_process_that_computes_uses_a_core(host: HostMeter) -> None:
    own, made = [process(os.getpid()), process(GONE), process(0)], host
    made.close()  # its own looks would come between
    made.look(own, 10 * SECOND_NS)
    first = made.report().processes
    assert list(first) == [os.getpid()]
    assert first[os.getpid()].cpu_cores is None
    compute(0.2)
    # As if exactly a fifth of a second had passed, whatever else this machine did.
    made.look(own, 10 * SECOND_NS + SECOND_NS // 5)
    use = made.report().processes[os.getpid()]
    assert use.rss_bytes > 0
    assert use.cpu_cores == pytest.approx(1.0, abs=0.3)
    assert use.cpu_demand is not None
    assert use.cpu_demand >= 0.7


def test_threads_of_engines_are_not_read(host: HostMeter) -> None:
    engine = [process(os.getpid(), Role.WORKER)]
    host.close()
    host.look(engine, 10 * SECOND_NS)
    host.look(engine, 12 * SECOND_NS)
    use = host.report().processes[os.getpid()]
    assert use.cpu_cores is not None
    assert use.cpu_demand is None


def test_it_looks_by_itself_and_has_the_record_and_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status_host, "INTERVAL_S", 0.01)
    looked = threading.Event()

    def processes() -> list[ProcessState]:
        looked.set()
        return [process(os.getpid())]

    made = HostMeter(processes, lambda: HostView(record_free_bytes=7, unrecorded={"queue_full": 1}))
    assert looked.wait(20)
    while not made.report().processes:
        time.sleep(0.01)
    made.close()
    view = made.report().host
    assert (view.record_free_bytes, view.unrecorded) == (7, {"queue_full": 1})
    assert view.memory_total_bytes is not None
    assert view.memory_available_bytes is not None
    assert 0 < view.memory_available_bytes <= view.memory_total_bytes


def test_a_system_that_does_not_tell_its_memory_is_no_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(status_host, "read_memory", lambda: (_ for _ in ()).throw(OSError()))
    made = HostMeter(tuple, HostView)
    made.close()
    assert made.report().host == HostView()


def test_processes_of_other_nodes_are_not_looked_for_here(host: HostMeter) -> None:
    away = msgspec.structs.replace(process(os.getpid()), node="node-b")
    host.look([away], 10 * SECOND_NS)
    assert not host.report().processes


def test_cpu_time_is_averaged_over_the_last_five_seconds(
    host: HostMeter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One figure for a second would be coarse, and one since the start out of date."""
    used_s = {10: 0.0, 12: 2.0, 16: 4.0, 17: 7.0}
    monkeypatch.setattr(
        status_host,
        "_reading",
        lambda _, now_ns, threads: status_host._CpuReading(
            now_ns, used_s[now_ns // SECOND_NS], 2 * used_s[now_ns // SECOND_NS]
        ),
    )
    host.close()
    told = []
    for at_s in used_s:
        host.look([process(os.getpid())], at_s * SECOND_NS)
        use = host.report().processes[os.getpid()]
        told.append((use.cpu_cores, use.cpu_demand))
    assert told == [(None, None), (1.0, 2.0), (0.5, 1.0), (1.0, 2.0)]
