"""The GPUs of this machine, read with NVML, the driver's library, which needs no CUDA context.

CUDA may count GPUs in another order than NVML. Engines are therefore given UUIDs of GPUs, never
numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pynvml

from dynamo_cli.config import Device
from dynamo_cli.errors import ResourceError
from dynamo_cli.units import MIB
from dynamo_cli.watch.gpus import GpuReading

BUSY_BYTES = 1024 * MIB
"""A GPU with more memory in use is taken for busy: a desktop needs less, an engine needs more."""

MIG = "MIG-"
"""Prefix of the UUIDs of MIG instances."""

NO_GPUS = ("", "-1", "NoDevFiles", "none", "void")
"""Values of ``CUDA_VISIBLE_DEVICES`` that hide every GPU."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG instance of a GPU that is split into instances.

    Attributes:
        device: how engines are told to use it.
        product: the vendor's name of the model.
        total_bytes: its memory; 0 for a GPU that uses the memory of the host.
        used_bytes: how much of that all processes use.
    """

    device: Device
    product: str = ""
    total_bytes: int = 0
    used_bytes: int = 0

    @property
    def free(self) -> bool:
        """Whether no other engine seems to run on it."""
        return self.used_bytes <= BUSY_BYTES


def read_gpus() -> list[Gpu]:
    """Every GPU in the order of the PCI bus; an empty list where there is no NVIDIA driver.

    Raises:
        ResourceError: there is a driver, but it does not answer.
    """
    try:
        with _nvml():
            return [
                gpu
                for index in range(pynvml.nvmlDeviceGetCount())
                for gpu in _with_instances(index, pynvml.nvmlDeviceGetHandleByIndex(index))
            ]
    except (pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError_DriverNotLoaded):
        return []
    except pynvml.NVMLError as error:
        raise ResourceError(
            f"the NVIDIA driver does not answer ({error}); nvidia-smi shows whether it works."
        ) from error


def all_alike() -> bool:
    """Whether no two GPUs of this machine are of different models; False if the driver does not
    answer."""
    with suppress(ResourceError):
        return len({gpu.product for gpu in read_gpus()}) <= 1
    return False


def visible(gpus: Sequence[Gpu], wanted: str | None) -> tuple[Gpu, ...]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` names, in its order; all of them when it is not set.

    A name is a number (in the order of the PCI bus, as nvidia-smi shows it), a UUID of a GPU or of
    a MIG instance, or the beginning of one. A GPU that is split into instances stands for the
    first of them, as in CUDA.

    Raises:
        ResourceError: it names a GPU that is not here, or the same one twice.
    """
    if wanted is None:
        return tuple(gpus)
    if wanted.strip() in NO_GPUS:
        return ()
    chosen: list[Gpu] = []
    for name in filter(None, map(str.strip, wanted.split(","))):
        gpu = _named(gpus, name)
        if gpu in chosen:
            raise ResourceError(f"CUDA_VISIBLE_DEVICES names GPU {gpu.device.name} twice.")
        chosen.append(gpu)
    return tuple(chosen)


def _named(gpus: Sequence[Gpu], name: str) -> Gpu:
    if name.isdecimal():
        fitting = [gpu for gpu in gpus if gpu.device.name.partition(":")[0] == name][:1]
    else:
        fitting = [gpu for gpu in gpus if gpu.device.uuid.lower().startswith(name.lower())]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ResourceError(
            f"CUDA_VISIBLE_DEVICES names {name!r}, and the names of several GPUs begin so."
        )
    here = ", ".join(f"{gpu.device.name} ({gpu.device.uuid})" for gpu in gpus) or "none"
    raise ResourceError(f"CUDA_VISIBLE_DEVICES names {name!r}, which is not here; there is {here}.")


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _with_instances(index: int, handle: object) -> Iterator[Gpu]:
    """The MIG instances of a GPU that is split into some, else the GPU itself."""
    bus = str(pynvml.nvmlDeviceGetPciInfo(handle).busId).lower()[-12:]
    instances = list(_instances(handle))
    for number, instance in enumerate(instances):
        yield _gpu(f"{index}:{number}", instance, bus)
    if not instances:
        yield _gpu(str(index), handle, bus)


def _instances(handle: object) -> Iterator[object]:
    with suppress(pynvml.NVMLError_NotSupported):
        current, _ = pynvml.nvmlDeviceGetMigMode(handle)
        most = pynvml.nvmlDeviceGetMaxMigDeviceCount(handle) if current else 0
        for number in range(most):
            with suppress(pynvml.NVMLError_NotFound):
                yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)


def _gpu(name: str, handle: object, bus: str) -> Gpu:
    total, used = _memory(handle)
    device = Device(name, str(pynvml.nvmlDeviceGetUUID(handle)), bus)
    return Gpu(device, str(pynvml.nvmlDeviceGetName(handle)), total, used)


def _memory(handle: object) -> tuple[int, int]:
    """Bytes in total and in use; zeros where the GPU uses the memory of the host."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return 0, 0
    return int(memory.total), int(memory.used)


# -- use and health, read repeatedly ---------------------------------------------------------------

_ILL = tuple(
    pynvml.NVMLError(code).__class__
    for code in (
        pynvml.NVML_ERROR_GPU_IS_LOST,
        pynvml.NVML_ERROR_RESET_REQUIRED,
        pynvml.NVML_ERROR_OPERATING_SYSTEM,
        pynvml.NVML_ERROR_IRQ_ISSUE,
        pynvml.NVML_ERROR_UNINITIALIZED,
        pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    )
)
"""Errors of a GPU or a driver that is broken. Other errors only say that a value is missing."""


class GpuMeter:
    """Reads use and health of some GPUs. Every call may block for as long as the driver does.

    Args:
        devices: the GPUs, or MIG instances, to read.

    Raises:
        ResourceError: the driver does not answer.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = tuple(devices)
        self._events: Any = None
        self._whole: dict[str, int] = {}
        with _told():
            pynvml.nvmlInit()
        with suppress(pynvml.NVMLError):  # some drivers lack events: then Xids are not reported
            self._events = pynvml.nvmlEventSetCreate()
            self._listen()

    def read(self) -> list[GpuReading]:
        """One reading of each device."""
        return [_reading(device) for device in self._devices]

    def xids(self, timeout_s: float) -> list[tuple[str, int]] | None:
        """Wait for errors that the driver reports: name of the device and NVIDIA's Xid number.

        Args:
            timeout_s: how long to wait for the first.

        Returns:
            an empty list after that time; None, at once, where the driver never reports any.

        Raises:
            ResourceError: the driver does not answer any more.
        """
        if not self._whole:
            return None
        with _told():
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, int(timeout_s * 1000))
            except pynvml.NVMLError_Timeout:
                return []
        whole = _identity(event.device)
        return [(name, int(event.eventData)) for name, one in self._whole.items() if one == whole]

    def close(self) -> None:
        """Release the driver."""
        with suppress(pynvml.NVMLError):
            if self._events is not None:
                pynvml.nvmlEventSetFree(self._events)
            pynvml.nvmlShutdown()

    def _listen(self) -> None:
        """Register for the errors of every GPU, once per GPU however many instances it has."""
        for device in self._devices:
            with suppress(pynvml.NVMLError):  # not supported by this GPU
                whole = _whole(device, pynvml.nvmlDeviceGetHandleByUUID(device.uuid))
                if _identity(whole) not in self._whole.values():
                    pynvml.nvmlDeviceRegisterEvents(
                        whole, pynvml.nvmlEventTypeXidCriticalError, self._events
                    )
                self._whole[device.name] = _identity(whole)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except pynvml.NVMLError as error:
        raise ResourceError(str(error)) from error


def _reading(device: Device) -> GpuReading:
    ask = _Asking()
    handle = ask(pynvml.nvmlDeviceGetHandleByUUID, device.uuid)
    if handle is None:
        return GpuReading(device.name, device.uuid, problem=ask.refused)
    whole = _whole(device, handle)
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power, limit = (
        ask(pynvml.nvmlDeviceGetPowerUsage, handle),
        ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle),
    )
    return GpuReading(
        name=device.name,
        uuid=device.uuid,
        product=str(ask(pynvml.nvmlDeviceGetName, handle) or ""),
        utilization=None if rates is None else rates.gpu / 100,
        memory_used_bytes=None if memory is None else int(memory.used),
        memory_total_bytes=None if memory is None else int(memory.total),
        power_watts=None if power is None else power / 1000,
        power_limit_watts=None if limit is None else limit / 1000,
        temperature_c=ask(pynvml.nvmlDeviceGetTemperature, whole, pynvml.NVML_TEMPERATURE_GPU),
        uncorrected_ecc_errors=ask(
            pynvml.nvmlDeviceGetTotalEccErrors,
            whole,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        ),
        problem=ask.ill,
        pid_bytes=_pid_bytes(ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)),
    )


def _pid_bytes(processes: Any) -> dict[int, int]:
    """Memory by process id; some drivers name processes but not their memory."""
    return {
        int(one.pid): int(one.usedGpuMemory)
        for one in processes or ()
        if one.usedGpuMemory is not None
    }


def _whole(device: Device, handle: Any) -> Any:
    """The GPU that an instance belongs to; for a GPU, itself."""
    if not device.uuid.startswith(MIG):
        return handle
    try:
        return pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    except pynvml.NVMLError:
        return handle


def _identity(handle: Any) -> int:
    """A number that identifies a GPU even when it is lost and has no readable UUID any more."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


class _Asking:
    """Reads values from NVML; gives None for a missing one.

    Attributes:
        refused: the last error.
        ill: the first error that means that the GPU or its driver is broken.
    """

    def __init__(self) -> None:
        self.refused = self.ill = ""

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except pynvml.NVMLError as error:
            self.refused = str(error)
            if isinstance(error, _ILL):
                self.ill = self.ill or self.refused
            return None
