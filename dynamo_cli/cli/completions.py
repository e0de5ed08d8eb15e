"""``dynamo-llm completions SHELL``: print a completion script, or install it."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dynamo_cli.cli.declare import application, option
from dynamo_cli.errors import UsageError
from dynamo_cli.host import oserrors

if TYPE_CHECKING:
    from dynamo_cli.completion.words import CompletionWords


class Shell(StrEnum):
    """Shells for which there are scripts."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


FILES = {Shell.BASH: "dynamo-llm.bash", Shell.ZSH: "_dynamo-llm", Shell.FISH: "dynamo-llm.fish"}
"""Names of the scripts in the folder ``completions/`` of the repository."""

app = application()


@app.command()
def completions(
    shell: Annotated[
        Shell, typer.Argument(metavar="bash|zsh|fish", help="Shell to make the script for.")
    ],
    install: Annotated[
        bool, option("--install", help="Write it to where that shell looks for completions.")
    ] = False,
) -> None:
    """Print the completion script of a shell, or install it."""
    text = script(shell)
    if not install:
        sys.stdout.write(text)
        return
    file, then = place(shell)
    typer.echo(f"{_install(file, text)} {then}")


def script(shell: Shell) -> str:
    """Generate the script for the commands as they are declared now."""
    from dynamo_cli.completion import bash, fish, zsh  # noqa: PLC0415 - needs all commands

    write = {Shell.BASH: bash.script, Shell.ZSH: zsh.script, Shell.FISH: fish.script}[shell]
    return write(known_words())


def known_words() -> CompletionWords:
    """Everything that can be completed, read from the declarations of all commands."""
    from dynamo_cli.cli import app as serving  # noqa: PLC0415 - it loads every option
    from dynamo_cli.cli import commands, settings  # noqa: PLC0415
    from dynamo_cli.completion import words  # noqa: PLC0415

    command = serving.command()
    negations = {param.name: flag for flag, param in settings.negations_of(command).items()}
    others = [
        (name, one.help, typer.main.get_command(commands.find(name)))
        for name, one in commands.COMMANDS.items()
    ]
    return words.read(command, negations, others)


def place(shell: Shell) -> tuple[Path, str]:
    """Where a shell looks for its user's own completions, and what else the user has to do."""
    data = _folder("XDG_DATA_HOME", "~/.local/share")
    match shell:
        case Shell.BASH:
            bash = _folder("BASH_COMPLETION_USER_DIR", str(data / "bash-completion"))
            file = bash / "completions" / "dynamo-llm"
            then = f"New shells find it if bash-completion is installed; else: source {file}"
        case Shell.ZSH:
            file = data / "zsh" / "site-functions" / FILES[shell]
            then = f"In ~/.zshrc, before compinit: fpath=({file.parent} $fpath)"
        case Shell.FISH:
            file = _folder("XDG_CONFIG_HOME", "~/.config") / "fish" / "completions" / FILES[shell]
            then = "New shells find it."
    return file, then


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).expanduser()


def _install(file: Path, text: str) -> str:
    try:
        if file.is_file() and file.read_text() == text:
            return f"{file} is up to date."
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {oserrors.reason(error)}.") from error
    return f"{file} is written."


def write_all(folder: Path) -> None:
    """Write all scripts into a folder, for ``make completions``."""
    folder.mkdir(exist_ok=True)
    for shell, name in FILES.items():
        (folder / name).write_text(script(shell))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
