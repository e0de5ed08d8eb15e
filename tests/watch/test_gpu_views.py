"""GPUs in the snapshot and in /metrics, and the alarms that they raise."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo_cli.config import Device, EngineConfig, FrontendConfig
from dynamo_cli.frontend.metrics import exposition
from dynamo_cli.messages.lifecycle import Phase, ProcessState, ProcessTable
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.gpus import GpuLog, GpuReading, GpuReport
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import AlarmView, Snapshot
from dynamo_cli.watch.state import TreeState

GRAFANA = Path(__file__).parents[2] / "container" / "grafana-dashboard.json"


def worker(index: int, *gpus: str) -> ProcessState:
    name = ProcessId(Role.WORKER, index).name
    return ProcessState(name, Role.WORKER, index, Phase.READY, "", 1, 0, 0, 0, "gpu", gpus)


def reading(name: str, **fields: Any) -> GpuReading:
    known = {"memory_used_bytes": 3, "memory_total_bytes": 4, "temperature_c": 60}
    return GpuReading(name, f"GPU-{name}", "H100", 0.5, **(known | fields))


def seen(report: GpuReport | None, at_s: float, *table: ProcessState) -> Snapshot:
    tree = TreeState(Meter(), ("tiny",), 0)
    states = list(table or (worker(0, "0"), worker(1, "1")))
    tree.apply(ProcessTable(states, serving=True, reason=""), 0)
    return tree.snapshot(int(at_s * SECOND_NS), {}, 0, gpus=report)


def alarm(report: GpuReport, at_s: float) -> AlarmView:
    (found,) = seen(report, at_s).alarms
    return found


def test_gpus_with_engines_are_shown_in_the_order_of_the_bus() -> None:
    report = GpuLog().read([reading(name) for name in ("0", "1", "2:1", "10")], 0)
    table = (worker(0, "10"), worker(1, "1", "2:1"), worker(2, "10"), worker(3))
    gpus = seen(report, 1, *table).gpus
    assert [(gpu.gpu, gpu.engines) for gpu in gpus] == [
        ("1", ["worker 1"]),
        ("2:1", ["worker 1"]),
        ("10", ["worker 0", "worker 2"]),
    ]
    assert (gpus[0].uuid, gpus[0].utilization, gpus[0].memory_used_bytes) == ("GPU-1", 0.5, 3)


def test_memory_of_engines_that_share_a_gpu_is_told_apart() -> None:
    report = GpuLog().read([reading("0", pid_bytes={1: 30, 9: 5})], 0)
    first, second = worker(0, "0"), msgspec.structs.replace(worker(1, "0"), pid=2)
    (gpu,) = seen(report, 1, first, second).gpus
    assert gpu.engine_bytes == {"worker 0": 30}


def test_without_gpus_nothing_is_shown() -> None:
    snapshot = seen(None, 1, worker(0))
    assert (snapshot.gpus, snapshot.alarms) == ([], [])
    assert b"_gpu_" not in exposition.render(
        Meter(), snapshot, TreeState(Meter(), (), 0).prefill, None
    )


def test_the_page_has_what_is_known() -> None:
    log = GpuLog()
    log.xid("1", 31, 0)
    log.xid("1", 31, 0)
    report = log.read([reading("0", power_watts=0.5), reading("1")], 0)
    page = exposition.render(
        Meter(), seen(report, 1), TreeState(Meter(), (), 0).prefill, None
    ).decode()
    for line in (
        'dynamo_llm_gpu_utilization_ratio{gpu="0"} 0.5',
        'dynamo_llm_gpu_memory_used_bytes{gpu="1"} 3.0',
        'dynamo_llm_gpu_memory_total_bytes{gpu="1"} 4.0',
        'dynamo_llm_gpu_power_watts{gpu="0"} 0.5',
        'dynamo_llm_gpu_temperature_celsius{gpu="0"} 60.0',
        'dynamo_llm_gpu_xid_errors_total{gpu="1",xid="31"} 2.0',
        'dynamo_llm_gpu_engine{gpu="1",process="worker 1",product="H100",uuid="GPU-1"} 1.0',
    ):
        assert line in page.splitlines()
    assert 'dynamo_llm_gpu_power_watts{gpu="1"}' not in page, "unknown is not 0"
    assert "dynamo_llm_gpu_uncorrected_ecc_errors_total{" not in page


def test_the_dashboard_of_grafana_shows_all_of_them_and_no_other() -> None:
    report = GpuLog().read([reading("0")], 0)
    page = exposition.render(
        Meter(), seen(report, 1), TreeState(Meter(), (), 0).prefill, None
    ).decode()
    exported = set(re.findall(r"^# TYPE (dynamo_llm_gpu_\w+)", page, re.MULTILINE))
    panels = [json.dumps(panel) for panel in json.loads(GRAFANA.read_text())["panels"]]
    assert set(re.findall(r"dynamo_llm_gpu_\w+", " ".join(panels))) == exported


def test_a_driver_that_hangs_is_an_alarm_and_what_it_said_is_unknown() -> None:
    report = GpuLog().read([reading("0"), reading("1")], 0)
    assert seen(report, 9).alarms == []
    found = alarm(report, 12)
    assert found.kind == "gpu driver"
    assert found.text == "the NVIDIA driver has not answered for 12 s"
    assert "dmesg" in found.advice
    gpus = seen(report, 12).gpus
    assert [(gpu.gpu, gpu.uuid, gpu.utilization, gpu.memory_used_bytes) for gpu in gpus] == [
        ("0", "GPU-0", None, None),
        ("1", "GPU-1", None, None),
    ]


def test_a_driver_that_has_never_answered_hangs_too() -> None:
    assert alarm(GpuReport(0), 11).kind == "gpu driver"
    assert [gpu.gpu for gpu in seen(GpuReport(0), 11).gpus] == ["0", "1"]


def test_a_driver_that_answers_with_an_error_is_an_alarm() -> None:
    found = alarm(GpuLog().read([], 0, "Driver Not Loaded"), 1)
    assert (found.kind, "Driver Not Loaded" in found.text) == ("gpu driver", True)


def test_a_lost_gpu_is_an_alarm() -> None:
    found = alarm(GpuLog().read([GpuReading("0", "", problem="GPU is lost"), reading("1")], 0), 1)
    assert found.kind == "gpu lost"
    assert found.text == "GPU 0 (worker 0) cannot be read: GPU is lost"
    assert "nvidia-smi --gpu-reset -i 0" in found.advice


@pytest.mark.parametrize("count", [0, 1, 2])
def test_errors_of_memory_alarm_for_as_long_as_the_driver_counts_them(count: int) -> None:
    readings = [reading("0"), reading("1", uncorrected_ecc_errors=count)]
    alarms = seen(GpuLog().read(readings, 990 * SECOND_NS), 991).alarms
    assert [found.kind for found in alarms] == ["gpu memory"] * bool(count)
    for found in alarms:
        assert f"GPU 1 (worker 1) has made {count} error" in found.text
        assert "--gpu-reset -i 1" in found.advice


@pytest.mark.parametrize(
    ("xid", "advice"),
    [
        (79, "restart this machine"),
        (31, "the engine's log"),
        (94, "--gpu-reset -i 1"),
        (119, "dmesg"),
    ],
)
def test_an_xid_alarms_for_ten_minutes(xid: int, advice: str) -> None:
    log = GpuLog()
    assert log.xid("1", xid, 1 * SECOND_NS)
    assert not log.xid("1", xid, 2 * SECOND_NS), "only the first of a kind is news"
    found = alarm(log.read([reading("1")], 5 * SECOND_NS), 5)
    assert found.kind == "gpu error"
    assert f"Xid {xid} of GPU 1 (worker 1) 2 times, 3 s ago" in found.text
    assert advice in found.advice
    assert seen(log.read([reading("1")], 602 * SECOND_NS), 603).alarms == []


def test_what_is_no_fault_of_our_gpus_is_counted_at_most() -> None:
    log = GpuLog()
    log.xid("1", 45, 0)  # a process was killed
    log.xid("7", 79, 0)  # no engine of ours runs there
    snapshot = seen(log.read([reading("1"), reading("7")], 0), 1)
    assert snapshot.alarms == []
    assert [(gpu.gpu, gpu.xids) for gpu in snapshot.gpus] == [("0", {}), ("1", {45: 1})]


def test_the_frontend_watches_what_engines_have_and_may_get() -> None:
    first, second, third = (Device(str(n), f"GPU-{n}") for n in range(3))
    config = ServeConfig(
        EngineConfig("m", "m", ("m",)),
        FrontendConfig(),
        engine_devices=((second,),),
        prefill_devices=((first,),),
        gpus=(second, third),
    )
    told = config.config_of(ProcessId(Role.FRONTEND))
    assert isinstance(told, FrontendConfig)
    assert told.gpus == (first, second, third)
    assert config.devices_of(ProcessId(Role.WORKER)) == (second,)
    assert config.devices_of(ProcessId(Role.PREFILL_WORKER)) == (first,)
    assert config.devices_of(ProcessId(Role.ROUTER)) == ()
