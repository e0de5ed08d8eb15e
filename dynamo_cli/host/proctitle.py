"""How a process is called in `ps` and `top`."""

from __future__ import annotations

import setproctitle

from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.topology import ProcessId


def set_title(process: ProcessId, phase: Phase) -> None:
    """``dynamo-llm: worker 0 [ready]``."""
    setproctitle.setproctitle(f"dynamo-llm: {process.name} [{phase}]")
