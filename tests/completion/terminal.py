"""Real interactive shells on a pseudo-terminal, which complete lines."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time
from pathlib import Path

ANSWER_S = 30.0
PATH = "/usr/bin:/bin"
"""A PATH without our command: a script that calls it would get nothing."""

ALL = "\x14"  # Ctrl-T: insert every match
"""At this key each shell inserts all matches, so that they can be read from the line."""

SET_UP = {
    "bash": """
bind 'set enable-bracketed-paste off'
bind '"\\C-t": insert-completions'
source {script}
""",
    "zsh": """
unsetopt zle_bracketed_paste; zmodload zsh/complist
fpath=({folder} $fpath)
autoload -Uz compinit && compinit -u -D
_every() { _main_complete; compstate[insert]=all }
zle -C every complete-word _every
bindkey '^T' every
""",
}
COMMANDS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}


class Terminal:
    """An interactive bash or zsh that has loaded our script."""

    def __init__(self, shell: str, script: Path, home: Path) -> None:
        self._answer = home / "answer"
        primary, secondary = pty.openpty()
        self._primary = primary
        environment = {
            "HOME": str(home),
            "PATH": PATH,
            "TERM": "dumb",
            "LC_ALL": "C.UTF-8",
            "HISTFILE": "",
        }
        self._process = subprocess.Popen(
            COMMANDS[shell],
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            env=environment,
            cwd=home,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads
        )
        os.close(secondary)
        set_up = SET_UP[shell].replace("{script}", str(script))
        set_up = set_up.replace("{folder}", str(script.parent))
        # The completed line is run, with this function in the place of our command.
        set_up += f"""
dynamo-llm() {{ printf '%s\\n' "$@" >{self._answer}.part; mv {self._answer}.part {self._answer}; }}
"""
        file = home / "set-up"
        file.write_text(set_up)
        self._send(f". {file}\n")
        assert self.complete("x") is not None

    def complete(self, line: str) -> list[str]:
        """The words after ``dynamo-llm `` once all matches are inserted for the last of them."""
        self._answer.unlink(missing_ok=True)
        self._send(f"dynamo-llm {line}{ALL}\n")
        deadline = time.monotonic() + ANSWER_S
        seen = b""
        while not self._answer.exists():
            assert time.monotonic() < deadline, seen.decode(errors="replace")
            if select.select([self._primary], [], [], 0.005)[0]:
                seen += os.read(self._primary, 65536)
        return self._answer.read_text().split("\n")[:-1]

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._primary)

    def _send(self, text: str) -> None:
        os.write(self._primary, text.encode())


class Fish:
    """fish with our script; it completes without a terminal."""

    def __init__(self, script: Path, home: Path) -> None:
        self._script = script
        self._home = home

    def complete(self, line: str) -> list[str]:
        code = f"source {self._script}; complete -C 'dynamo-llm {line}'"
        done = subprocess.run(
            ["fish", "--no-config", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=self._home,
            env={"HOME": str(self._home), "PATH": PATH, "LC_ALL": "C.UTF-8"},
            timeout=ANSWER_S,
        )
        assert not done.stderr, done.stderr
        return [found.partition("\t")[0] for found in done.stdout.splitlines()]

    def close(self) -> None:
        """Does nothing: fish has ended already."""
