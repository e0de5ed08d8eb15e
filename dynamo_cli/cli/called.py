"""How this program was called, so that what it tells people to type works where they are."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

from dynamo_cli import PROGRAM
from dynamo_cli.cli.commands import COMMANDS

_COMMAND = re.compile(
    rf"(?<![\w./-]){PROGRAM}(?= (?:-|[A-Z]|demo\b|\S+/\S|(?:{'|'.join(COMMANDS)})\b))"
)
"""The name of this program where a command line begins: an option or a command follows."""


@cache
def name() -> str:
    """What calls this program in the same shell: its name, or the path of its script in a clone."""
    script = Path(sys.argv[0])
    if script.name != PROGRAM or not script.is_file():
        return PROGRAM  # it was imported, by a test or another program
    on_path = shutil.which(PROGRAM)
    if on_path is not None and Path(on_path).samefile(script):
        return PROGRAM
    relative = os.path.relpath(script)
    return shlex.quote(relative if not relative.startswith("..") else str(script.absolute()))


def as_called(text: str) -> str:
    """A text for people, whose commands begin with `name`."""
    return _COMMAND.sub(lambda _: name(), text)
