"""The GPUs of this machine, read with NVML: the driver's own library, which needs no CUDA context.

CUDA counts GPUs in another order than NVML unless it is told not to, so engines are given the
UUIDs of their GPUs, never their numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import pynvml

from dynamo_cli.config import Device
from dynamo_cli.errors import ResourceError
from dynamo_cli.units import MIB

BUSY_BYTES = 1024 * MIB
"""A GPU with more in use belongs to somebody else: a desktop needs less, an engine more."""

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
