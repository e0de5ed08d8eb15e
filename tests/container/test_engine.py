"""How `make serve` and `container/build.sh` choose the engine, on machines made up for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci/engine"
TOOLS = ("sh", "cat", "grep", "head", "sed")
NVRM = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Sep 23 00:00:00 UTC 2026\n"


class Machine:
    """A machine that has nothing of NVIDIA.

    Args:
        root: its folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = root / "bin"
        self.programs.mkdir()
        for tool in TOOLS:  # but no nvidia-smi of the machine that the tests run on
            (self.programs / tool).symlink_to(shutil.which(tool) or tool)

    def smi(self, *, gpus: int = 0, driver: str = "", fails: str = "") -> None:
        """Install an nvidia-smi that shows this."""
        shown = "".join(f"GPU {n}: NVIDIA H100 (UUID: GPU-{n})\n" for n in range(gpus)) or fails
        program = self.programs / "nvidia-smi"
        program.write_text(
            f"#!/bin/sh\n[ $1 != -L ] || {{ printf '{shown}'; exit {9 if fails else 0}; }}\n"
            f"for n in 0 {'1' * (gpus > 1)}; do echo {driver}; done\n"
        )
        program.chmod(0o755)

    def device(self) -> None:
        """Have a GPU that the driver shows."""
        self._file("dev/nvidia0", "")

    def driver(self, version: str) -> None:
        """Have this driver loaded."""
        self._file("proc/driver/nvidia/version", NVRM.format(version))

    def card(self, vendor: str, kind: str) -> None:
        """Have a device in a slot."""
        for name, value in (("vendor", vendor), ("class", kind)):
            self._file(f"sys/bus/pci/devices/0000:01:00.0/{name}", value + "\n")

    def _file(self, name: str, text: str) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def chooses(self, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script there."""
        where = {"PATH": str(self.programs), "SYSTEM": str(self.root)}
        return subprocess.run(
            [SCRIPT], check=False, capture_output=True, text=True, env=where | variables
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def chosen(machine: Machine, **variables: str) -> str:
    done = machine.chooses(**variables)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.rstrip("\n")


def refused(machine: Machine, **variables: str) -> str:
    done = machine.chooses(**variables)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("set-up: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_nothing_of_nvidia_means_the_cpu(machine: Machine) -> None:
    assert chosen(machine) == "cpu: there is no NVIDIA GPU"
    machine.card("0x8086", "0x030000")
    assert chosen(machine) == "cpu: there is no NVIDIA GPU"


@pytest.mark.parametrize(("gpus", "says"), [(1, "1 GPU"), (2, "2 GPUs")])
def test_gpus_that_work_are_used(machine: Machine, gpus: int, says: str) -> None:
    machine.smi(gpus=gpus, driver="580.95.05")
    assert chosen(machine) == f"cuda: {says}, driver 580.95.05"


def test_a_program_without_gpus_is_no_gpu(machine: Machine) -> None:
    machine.smi(fails="No devices were found")
    assert chosen(machine) == "cpu: there is no NVIDIA GPU"


def test_gpus_are_found_without_the_program(machine: Machine) -> None:
    machine.device()
    assert chosen(machine) == "cuda: /dev/nvidia0"
    machine.driver("580.95.05")
    assert chosen(machine) == "cuda: /dev/nvidia0, driver 580.95.05"


def test_an_old_driver_is_told_before_anything_is_installed(machine: Machine) -> None:
    machine.device()
    machine.driver("535.230.02")
    assert "driver 535.230.02 is too old for vLLM, which needs 580" in refused(machine)
    machine.smi(gpus=1, driver="570.1")
    said = refused(machine)
    assert "570.1 is too old" in said
    assert "ENGINE=cpu" in said
    assert chosen(machine, ENGINE="cpu") == "cpu: as ENGINE says"


def test_a_driver_that_does_not_answer_is_told(machine: Machine) -> None:
    machine.device()
    machine.smi(fails="Failed to initialize NVML: Driver/library version mismatch")
    said = refused(machine)
    assert "nvidia-smi says: Failed to initialize NVML: Driver/library version mismatch;" in said
    assert "ENGINE=cpu" in said


@pytest.mark.parametrize("kind", ["0x030000", "0x030200"])
def test_a_gpu_that_cannot_be_reached_is_told(machine: Machine, kind: str) -> None:
    machine.card("0x10de", kind)
    machine.driver("580.95.05")  # as in a container without --gpus
    said = chosen(machine)
    assert said.startswith("cpu: there is an NVIDIA GPU, but it cannot be used from here")
    assert "--gpus all" in said


def test_other_devices_of_the_maker_are_no_gpus(machine: Machine) -> None:
    machine.card("0x10de", "0x040300")  # the sound of a graphics card
    assert chosen(machine) == "cpu: there is no NVIDIA GPU"


def test_the_choice_can_be_overridden(machine: Machine) -> None:
    assert chosen(machine, ENGINE="cuda") == "cuda: as ENGINE says"
    machine.smi(gpus=1, driver="580.1")
    assert chosen(machine, ENGINE="cpu") == "cpu: as ENGINE says"
    assert "ENGINE is cpu or cuda, not rocm" in refused(machine, ENGINE="rocm")
