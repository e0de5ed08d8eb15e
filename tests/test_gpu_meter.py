"""Use and health of GPUs, with a table in the place of the driver library."""

from __future__ import annotations

import subprocess
import sys

import pynvml
import pytest

from dynamo_cli.config import Device
from dynamo_cli.errors import ResourceError
from dynamo_cli.host.gpus import GpuMeter
from dynamo_cli.units import MIB
from dynamo_cli.watch.gpus import GpuReading
from tests.support.nvml import Nvml

A, B, C = Device("0", "GPU-a"), Device("1", "GPU-b"), Device("2:0", "MIG-c")
WELL = GpuReading(
    *("0", "GPU-a", "H100", 0.37, 8 * MIB, 80 * MIB, 412.5, 700.0, 61, 0),
    pid_bytes={41: 6 * MIB},
)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    return Nvml(monkeypatch)


def test_all_that_is_read(nvml: Nvml) -> None:
    meter = GpuMeter([A])
    assert meter.read() == [WELL]
    meter.close()
    assert nvml.open == 0


@pytest.mark.parametrize(
    ("function", "unknown"),
    [
        ("nvmlDeviceGetPowerUsage", "power_watts"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_watts"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetTotalEccErrors", "uncorrected_ecc_errors"),
        ("nvmlDeviceGetUtilizationRates", "utilization"),
        ("nvmlDeviceGetMemoryInfo", "memory_used_bytes"),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_UNKNOWN])
def test_a_figure_that_is_not_there_is_unknown(
    nvml: Nvml, function: str, unknown: str, code: int
) -> None:
    nvml.gpus["GPU-a"].refused = {function: code}
    (reading,) = GpuMeter([A]).read()
    assert getattr(reading, unknown) is None
    assert reading.problem == ""
    assert (reading.product, reading.name) == ("H100", "0")


def test_a_lost_gpu_is_told_and_the_others_are_read(nvml: Nvml) -> None:
    meter = GpuMeter([A, B])
    for name in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetPowerUsage"):
        nvml.gpus["GPU-b"].refused[name] = pynvml.NVML_ERROR_GPU_IS_LOST
    first, second = meter.read()
    assert first == WELL
    assert (second.problem, second.memory_used_bytes) == ("GPU is lost", None)
    del nvml.gpus["GPU-b"]
    assert meter.read()[1] == GpuReading("1", "GPU-b", problem="Not Found")


def test_an_instance_has_the_health_of_its_gpu(nvml: Nvml) -> None:
    nvml.gpus["MIG-c"].refused = {
        "nvmlDeviceGetTemperature": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetTotalEccErrors": pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
    (reading,) = GpuMeter([C]).read()
    assert (reading.temperature_c, reading.uncorrected_ecc_errors) == (61, 2)


def test_xids_come_with_the_gpus_that_they_concern(nvml: Nvml) -> None:
    another = Device("2:1", "MIG-c")
    meter = GpuMeter([A, C, another])
    assert nvml.listens_to == [0x10, 0x30], "a GPU once, however many instances"
    nvml.events.extend([(0x30, 79), (0x10, 31), (0x99, 13)])
    nvml.gpus["GPU-c"].refused = {"nvmlDeviceGetUUID": pynvml.NVML_ERROR_GPU_IS_LOST}
    assert meter.xids(0.1) == [("2:0", 79), ("2:1", 79)]
    assert meter.xids(0.1) == [("0", 31)]
    assert meter.xids(0.1) == [], "somebody else's"
    assert meter.xids(0.01) == [], "none came"


@pytest.mark.parametrize("function", ["nvmlEventSetCreate", "nvmlDeviceRegisterEvents"])
def test_where_xids_are_never_told_all_else_is_read(nvml: Nvml, function: str) -> None:
    nvml.refused = {function: pynvml.NVML_ERROR_NOT_SUPPORTED}
    meter = GpuMeter([A])
    assert meter.xids(10) is None
    assert meter.read() == [WELL]
    meter.close()


def test_a_driver_that_does_not_answer_is_an_error(nvml: Nvml) -> None:
    meter = GpuMeter([A])
    nvml.refused = {
        "nvmlInit": pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        "nvmlEventSetWait_v2": pynvml.NVML_ERROR_GPU_IS_LOST,
    }
    with pytest.raises(ResourceError, match="GPU is lost"):
        meter.xids(0.1)
    with pytest.raises(ResourceError, match="Driver Not Loaded"):
        GpuMeter([A])


def test_a_frontend_without_gpus_loads_nothing_for_them() -> None:
    code = (
        "import sys\n"
        "import dynamo_cli.frontend.process\n"
        "from dynamo_cli.frontend.status.gpus import Gpus\n"
        "gpus = Gpus(())\n"
        "assert gpus.report is None\n"
        "gpus.close()\n"
        "import threading\n"
        "assert threading.active_count() == 1\n"
        "assert 'pynvml' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
