"""The GPUs of this machine, read with NVML: the driver's own library, which needs no CUDA context.

CUDA counts GPUs in another order than NVML unless it is told not to, so engines are given the
UUIDs of their GPUs, never their numbers.
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
"""A GPU with more in use belongs to somebody else: a desktop needs less, an engine more."""

MIG = "MIG-"
"""How UUIDs of instances begin."""

NO_GPUS = ("", "-1", "NoDevFiles", "none", "void")
"""Values of ``CUDA_VISIBLE_DEVICES`` that hide every GPU."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, or one MIG instance of a GPU that is split into instances.

    Attributes:
        device: what engines are told of it.
        product: the name that the maker gives it.
        total_bytes: its memory; 0 where it has none of its own (it shares the host's).
        used_bytes: of that, by all processes.
    """

    device: Device
    product: str = ""
    total_bytes: int = 0
    used_bytes: int = 0

    @property
    def free(self) -> bool:
        """Nobody else computes on it."""
        return self.used_bytes <= BUSY_BYTES


def read_gpus() -> list[Gpu]:
    """Every GPU in the order of the PCI bus; none where there is no NVIDIA driver.

    Raises:
        ResourceError: there is a driver, and it does not answer.
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
            f"the NVIDIA driver does not answer ({error}); nvidia-smi says whether it is well."
        ) from error


def visible(gpus: Sequence[Gpu], wanted: str | None) -> tuple[Gpu, ...]:
    """Those that ``CUDA_VISIBLE_DEVICES`` names, in its order; all when it is not set.

    A name is a number (in the order of the PCI bus, as nvidia-smi shows it), a UUID of a GPU or of
    a MIG instance, or the beginning of one. A GPU that is split into instances stands for the
    first of them, as in CUDA.

    Raises:
        ResourceError: it names one that is not here, or the same one twice.
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
        raise ResourceError(f"CUDA_VISIBLE_DEVICES names {name!r}, and several GPUs begin so.")
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
    """The MIG instances of a GPU that is split, else the GPU itself."""
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
    """Bytes in all and in use; zeros where the GPU uses the host's memory."""
    try:
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError_NotSupported:
        return 0, 0
    return int(memory.total), int(memory.used)


# -- use and health, again and again ---------------------------------------------------------------

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
"""Answers of a GPU or a driver that is not well; the others only say that a figure is not there."""


class GpuMeter:
    """Use and health of some GPUs. Every call may take as long as the driver likes.

    Args:
        devices: that are looked at.

    Raises:
        ResourceError: the driver does not answer.
    """

    def __init__(self, devices: Sequence[Device]) -> None:
        self._devices = tuple(devices)
        self._events: Any = None
        self._whole: dict[str, int] = {}
        with _told():
            pynvml.nvmlInit()
        with suppress(pynvml.NVMLError):  # not there on some: then nobody hears of Xids
            self._events = pynvml.nvmlEventSetCreate()
            self._listen()

    def read(self) -> list[GpuReading]:
        """One of each, as of now."""
        return [_reading(device) for device in self._devices]

    def xids(self, timeout_s: float) -> list[tuple[str, int]] | None:
        """Errors that the driver reports: name of the GPU and NVIDIA's number.

        Args:
            timeout_s: how long the first may take.

        Returns:
            none after that time; None, at once, where it never reports any.

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
        with suppress(pynvml.NVMLError):
            if self._events is not None:
                pynvml.nvmlEventSetFree(self._events)
            pynvml.nvmlShutdown()

    def _listen(self) -> None:
        """To every GPU once, however many of its instances there are."""
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
    )


def _whole(device: Device, handle: Any) -> Any:
    """The GPU of an instance; a GPU is its own."""
    if not device.uuid.startswith(MIG):
        return handle
    try:
        return pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    except pynvml.NVMLError:
        return handle


def _identity(handle: Any) -> int:
    """The same for the same GPU; a lost one can still be told by it, and not by its UUID."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


class _Asking:
    """Asks for figures; one that is not there is None.

    Attributes:
        refused: the last answer that was no figure.
        ill: the first of those that only a GPU or a driver gives that is not well.
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
