"""The thread that watches GPUs: what it reports, and that nothing waits for a driver."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pynvml
import pytest

from dynamo_cli.config import Device, FrontendConfig
from dynamo_cli.frontend.status import gpus
from dynamo_cli.frontend.status.gpus import Gpus
from dynamo_cli.topology import Role
from dynamo_cli.watch.gpus import GpuReport
from tests.frontend.stage import Stage, table
from tests.support.nvml import Nvml
from tests.support.server import wait_until

DEVICES = (Device("0", "GPU-a"), Device("1", "GPU-b"))


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    monkeypatch.setattr(gpus, "INTERVAL_S", 0.02)
    monkeypatch.setattr(gpus, "LISTEN_S", 0.01)
    return Nvml(monkeypatch)


def report(watch: Gpus) -> GpuReport:
    assert watch.report is not None
    return watch.report


def test_it_reads_again_and_again_and_ends(nvml: Nvml) -> None:
    watch = Gpus(DEVICES)
    wait_until(lambda: len(report(watch).readings) == 2, 10, "a reading")
    first = report(watch)
    wait_until(lambda: report(watch).read_ns > first.read_ns, 10, "another one")
    watch.close()
    assert not watch._thread.is_alive()
    assert nvml.open == 0


def test_xids_are_logged_once_and_counted(nvml: Nvml, caplog: pytest.LogCaptureFixture) -> None:
    nvml.events.extend([(0x20, 79), (0x20, 79)])
    watch = Gpus(DEVICES)
    wait_until(lambda: report(watch).xids, 10, "the errors")
    wait_until(lambda: report(watch).xids["1"][0].count == 2, 10, "both of them")
    watch.close()
    (said,) = [one for one in caplog.records if "Xid" in one.message]
    assert said.message == "the driver reports Xid 79 of GPU 1"


def test_nobody_waits_for_a_driver_that_hangs(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "CLOSE_S", 0.01)
    nvml.answers.clear()
    began = time.monotonic()
    watch = Gpus(DEVICES)
    assert report(watch).readings == ()
    assert report(watch).silent_s(time.monotonic_ns() + 11_000_000_000) > 10
    watch.close()
    assert time.monotonic() - began < 10
    nvml.answers.set()
    watch._thread.join(10)
    assert not watch._thread.is_alive()


def test_a_driver_that_goes_is_asked_again(nvml: Nvml) -> None:
    nvml.refused = {"nvmlInit": pynvml.NVML_ERROR_DRIVER_NOT_LOADED}
    watch = Gpus(DEVICES)
    wait_until(lambda: report(watch).problem == "Driver Not Loaded", 10, "the problem")
    nvml.refused = {}
    wait_until(lambda: report(watch).readings, 10, "readings")
    assert report(watch).problem == ""
    watch.close()


def test_a_lost_gpu_does_not_stop_the_reading_of_others(
    nvml: Nvml, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.refused = {"nvmlEventSetWait_v2": pynvml.NVML_ERROR_GPU_IS_LOST}
    watch = Gpus(DEVICES)
    wait_until(lambda: len(report(watch).readings) == 2, 10, "readings")
    first = report(watch)
    wait_until(lambda: report(watch).read_ns > first.read_ns, 10, "more of them")
    watch.close()
    assert nvml.open == 0
    (said,) = caplog.records
    assert said.message == "cannot receive Xids (GPU errors) from the NVIDIA driver: GPU is lost"


def test_a_frontend_that_cannot_read_its_gpus_serves_and_says_so() -> None:
    """Whether this machine has a driver or not, it has no GPU of that name."""
    config = FrontendConfig(port=0, gpus=(Device("0", "GPU-none"),))

    async def scenario() -> None:
        async with Stage(config) as stage:
            plain = table(serving=True)
            processes = [
                msgspec.structs.replace(
                    one, restarts=0, gpus=("0",) if one.role is Role.WORKER else ()
                )
                for one in plain.processes
            ]
            stage.tell(msgspec.structs.replace(plain, processes=processes))
            kinds: list[str] = []
            while not {"gpu driver", "gpu lost"} & set(kinds):
                snapshot = (await stage.get("/dynamo/snapshot"))[2]
                kinds = [alarm["kind"] for alarm in snapshot["alarms"]]
                await asyncio.sleep(0.005)
            (view,) = snapshot["gpus"]
            assert (view["gpu"], view["engines"]) == ("0", ["worker 0"])
            assert view["utilization"] is None
            page = (await stage.get("/metrics"))[2]
            assert "dynamo_llm_gpu_engine{" in page
            assert "dynamo_llm_gpu_utilization_ratio{" not in page
            while "alarm (gpu" not in stage.alarms:
                await asyncio.sleep(0.005)
            assert "WARNING" in stage.alarms
            assert stage.alarms.count("alarm (gpu") == 1
            stage.expected_log = stage.log  # that Xids cannot be received

    asyncio.run(asyncio.wait_for(scenario(), 30))
