"""Stands for the NVIDIA driver's library: GPUs that a table describes, and calls that can hang."""

from __future__ import annotations

import ctypes
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from dynamo_cli.units import MIB


def error(code: int) -> pynvml.NVMLError:
    return pynvml.NVMLError(code)


@dataclass
class FakeGpu:
    """What the driver says of one; `refused`: functions that give an error, by code."""

    address: int
    whole: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    ecc: int = 0


class Nvml:
    """In the place of `pynvml`'s functions.

    Attributes:
        gpus: by UUID; two GPUs and an instance of a third.
        refused: functions that give an error whatever the GPU, by code.
        events: (address of a GPU, Xid) that are waited for.
        answers: while it is not set, every call hangs.
        open: how often it was opened and not closed.
        listens_to: addresses of the GPUs that were registered.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpus = {
            "GPU-a": FakeGpu(0x10),
            "GPU-b": FakeGpu(0x20),
            "MIG-c": FakeGpu(0x31, whole=0x30),
            "GPU-c": FakeGpu(0x30, ecc=2),
        }
        self.refused: dict[str, int] = {}
        self.events: deque[tuple[int, int]] = deque()
        self.answers = threading.Event()
        self.answers.set()
        self.open = 0
        self.listens_to: list[int] = []
        for name in dir(self):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, self._called(name))

    def _called(self, name: str) -> Any:
        function = getattr(self, name)

        def call(*args: Any) -> Any:
            self.answers.wait(30)
            if name in self.refused:
                raise error(self.refused[name])
            if args and not isinstance(args[0], str | int):
                found = self._gpu(args[0])
                if found is not None and name in found.refused:
                    raise error(found.refused[name])
            return function(*args)

        return call

    def _gpu(self, handle: Any) -> FakeGpu | None:
        wanted = ctypes.cast(handle, ctypes.c_void_p).value
        return next((gpu for gpu in self.gpus.values() if gpu.address == wanted), None)

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:  # noqa: N802
        if uuid not in self.gpus:
            raise error(pynvml.NVML_ERROR_NOT_FOUND)
        return handle_of(self.gpus[uuid].address)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any) -> Any:  # noqa: N802
        found = self._gpu(handle)
        assert found is not None
        return handle_of(found.whole)

    def nvmlDeviceGetName(self, handle: Any) -> str:  # noqa: N802
        return "H100"

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(total=80 * MIB, used=8 * MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any) -> list[Any]:  # noqa: N802
        return [
            SimpleNamespace(pid=41, usedGpuMemory=6 * MIB),
            SimpleNamespace(pid=42, usedGpuMemory=None),
        ]

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=37, memory=11)

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        return 412_500

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:  # noqa: N802
        return 700_000

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int:  # noqa: N802
        found = self._gpu(handle)
        assert found is not None
        assert (kind, counter) == (
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        )
        return found.ecc

    def nvmlEventSetCreate(self) -> Any:  # noqa: N802
        return handle_of(1)

    def nvmlEventSetFree(self, events: Any) -> None:  # noqa: N802
        pass

    def nvmlDeviceRegisterEvents(self, handle: Any, kinds: int, events: Any) -> None:  # noqa: N802
        assert kinds == pynvml.nvmlEventTypeXidCriticalError
        found = self._gpu(handle)
        assert found is not None
        self.listens_to.append(found.address)

    def nvmlEventSetWait_v2(self, events: Any, timeout_ms: int) -> Any:  # noqa: N802
        if not self.events:
            time.sleep(min(timeout_ms / 1000, 0.01))
            raise error(pynvml.NVML_ERROR_TIMEOUT)
        address, xid = self.events.popleft()
        return SimpleNamespace(device=handle_of(address), eventData=xid)


def handle_of(address: int) -> Any:
    return ctypes.cast(ctypes.c_void_p(address), pynvml.c_nvmlDevice_t)
