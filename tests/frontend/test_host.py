"""What processes use, read from the kernel."""

from __future__ import annotations

import os
import time

import pytest

from dynamo_cli.frontend.status.host import Host
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


def test_a_process_that_computes_uses_a_core() -> None:
    host, own = Host(HostView), [process(os.getpid()), process(GONE), process(0)]
    first = host.report(own, 10 * SECOND_NS).processes
    assert list(first) == [os.getpid()]
    assert first[os.getpid()].cpu_cores is None
    compute(0.2)
    # As if exactly a fifth of a second had passed, whatever else this machine did.
    host._read_ns = 0
    use = host.report(own, 10 * SECOND_NS + SECOND_NS // 5).processes[os.getpid()]
    assert use.rss_bytes > 0
    assert use.cpu_cores == pytest.approx(1.0, abs=0.3)
    assert use.cpu_demand is not None
    assert use.cpu_demand >= 0.7


def test_threads_of_engines_are_not_read() -> None:
    host, engine = Host(HostView), [process(os.getpid(), Role.WORKER)]
    host.report(engine, 10 * SECOND_NS)
    use = host.report(engine, 12 * SECOND_NS).processes[os.getpid()]
    assert use.cpu_cores is not None
    assert use.cpu_demand is None


def test_it_is_read_once_a_second_and_has_the_record_and_the_memory() -> None:
    host = Host(lambda: HostView(record_free_bytes=7, unrecorded={"queue_full": 1}))
    report = host.report([], 10 * SECOND_NS)
    assert host.report([], 10 * SECOND_NS + 1) is report
    assert host.report([], 11 * SECOND_NS) is not report
    view = report.host
    assert (view.record_free_bytes, view.unrecorded) == (7, {"queue_full": 1})
    assert view.memory_total_bytes is not None
    assert view.memory_available_bytes is not None
    assert 0 < view.memory_available_bytes <= view.memory_total_bytes
