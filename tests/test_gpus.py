"""The list of GPUs, with a table in the place of the driver library."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from dynamo_cli.config import Device
from dynamo_cli.errors import ResourceError
from dynamo_cli.host import gpus
from dynamo_cli.host.gpus import Gpu, read_gpus, visible
from dynamo_cli.units import MIB


def error(code: int) -> pynvml.NVMLError:
    return pynvml.NVMLError(code)


class Driver:
    """A fake NVML: a GPU of 80 MiB, one split into two instances, one without memory of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = 0
        for name in dir(self):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, getattr(self, name))

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return str(index)

    def nvmlDeviceGetPciInfo(self, handle: str) -> Any:  # noqa: N802
        return SimpleNamespace(busId=f"0000000{handle}:3B:00.0")

    def nvmlDeviceGetMigMode(self, handle: str) -> tuple[int, int]:  # noqa: N802
        if handle == "2":
            raise error(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return int(handle == "1"), 0

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:  # noqa: N802
        if index > 1:
            raise error(pynvml.NVML_ERROR_NOT_FOUND)
        return f"{handle}:{index}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:  # noqa: N802
        return f"MIG-{handle}" if ":" in handle else f"GPU-{handle}"

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return "H100"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802
        if handle == "2":
            raise error(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(total=80 * MIB, used=8 * MIB)


def test_gpus_instances_and_what_has_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch)
    assert read_gpus() == [
        Gpu(Device("0", "GPU-0", "0000:3b:00.0"), "H100", 80 * MIB, 8 * MIB),
        Gpu(Device("1:0", "MIG-1:0", "0001:3b:00.0"), "H100", 80 * MIB, 8 * MIB),
        Gpu(Device("1:1", "MIG-1:1", "0001:3b:00.0"), "H100", 80 * MIB, 8 * MIB),
        Gpu(Device("2", "GPU-2", "0002:3b:00.0"), "H100", 0, 0),
    ]
    assert driver.open == 0


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED]
)
def test_without_a_driver_there_are_none(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: fail(code))
    assert read_gpus() == []


def test_a_driver_that_is_ill_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch)
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetCount", lambda: fail(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    )
    with pytest.raises(ResourceError, match="the NVIDIA driver does not answer"):
        read_gpus()


def fail(code: int) -> None:
    raise error(code)


HERE = tuple(
    Gpu(Device(name, uuid))
    for name, uuid in (
        ("0", "GPU-aa11"),
        ("1:0", "MIG-bb"),
        ("1:1", "MIG-cc"),
        ("2", "GPU-aa22"),
        ("10", "GPU-dd"),
    )
)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (None, ["0", "1:0", "1:1", "2", "10"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", ["2", "0"]),
        (" 2 , GPU-aa11 ,", ["2", "0"]),
        ("GPU-aa2", ["2"]),
        ("gpu-AA22", ["2"]),
        ("MIG-cc,MIG-bb", ["1:1", "1:0"]),
        ("1", ["1:0"]),
        ("10", ["10"]),
    ],
)
def test_visible_devices_are_respected(wanted: str | None, names: list[str]) -> None:
    assert [gpu.device.name for gpu in visible(HERE, wanted)] == names


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ("7", "names '7', which is not here; there is 0 .GPU-aa11., 1:0"),
        ("GPU-ee", "names 'GPU-ee', which is not here"),
        ("GPU-aa", "names 'GPU-aa', and the names of several GPUs begin so"),
        ("0,GPU-aa11", "names GPU 0 twice"),
    ],
)
def test_what_is_not_there_is_named(wanted: str, says: str) -> None:
    with pytest.raises(ResourceError, match=says):
        visible(HERE, wanted)


def test_busy_is_more_than_a_desktop_needs() -> None:
    device = Device("0", "GPU-0")
    assert Gpu(device, "", 80 * MIB, gpus.BUSY_BYTES).free
    assert not Gpu(device, "", 80 * MIB, gpus.BUSY_BYTES + 1).free
