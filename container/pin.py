"""Print the exact version of every package that the image gets, as pip would choose them today.

    python container/pin.py cpu|cuda >container/constraints-cpu.txt

The image installs these and nothing else, so that a build next year gives the same image.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_ON_CPU = ("torchaudio", "torchcodec", "torchvision", "triton")
"""The first three do not load beside a build of torch for CPUs, and fail whatever imports them;
the last is a GB for GPUs only."""


def requirements(engine: str) -> list[str]:
    """What the project asks for, with its engine."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"][engine], "setuptools"]
    return [*wanted, f"vllm=={measured_on_gpus()}"] if engine == "cuda" else wanted


def measured_on_gpus() -> str:
    """The release of vLLM for GPUs that the set-up of a clone names, such as ``0.32.*``."""
    setup = (ROOT / ".ci/setup").read_text()
    named = re.search(r"^MEASURED_ON_GPUS='(.*)'$", setup, re.M)
    assert named is not None
    return named[1]


def resolve(wanted: list[str]) -> list[str]:
    """``name==version`` of `wanted` and all that they need, sorted; nothing is installed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        ignoring = ["--dry-run", "--ignore-installed", "--only-binary=:all:"]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-qq", *ignoring, "--report", report, *wanted],
            check=True,
            stdout=sys.stderr,
        )
        chosen = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    return sorted(f"{normal(package['name'])}=={package['version']}" for package in chosen)


def normal(name: str) -> str:
    """A package's name as package indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=("cpu", "cuda"))
    engine = parser.parse_args().engine
    pins = resolve(requirements(engine))
    if engine == "cpu":
        pins = [pin for pin in pins if pin.partition("==")[0] not in NOT_ON_CPU]
    elif any(pin.endswith("+cpu") for pin in pins):
        sys.exit("pip finds a build of torch for CPUs here; try PIP_CONFIG_FILE=/dev/null")
    print(f"# Made by `python container/pin.py {engine}`; for Python 3.11 on x86-64.")
    print("\n".join(pins))


if __name__ == "__main__":
    main()
