"""The title of a process in `ps` and `top`."""

from __future__ import annotations

import setproctitle

from dynamo_cli import PROGRAM
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.topology import ProcessId

TITLE = f"{PROGRAM}: "
"""Beginning of the title of every child process."""


def set_title(process: ProcessId, phase: Phase) -> None:
    """Set the title of this process, such as ``dynamo-llm: worker 0 [ready]``."""
    setproctitle.setproctitle(f"{TITLE}{process.name} [{phase}]")
