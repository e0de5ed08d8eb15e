"""How far a measurement is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from dynamo_cli.lab.load.bench import Bench, Plan


class Progress:
    """A bar on standard error, where that is a terminal."""

    def __init__(self, plan: Plan, servers: int) -> None:
        console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}")
        self._bar = Bar(
            *columns,
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._requests, self._duration_s = plan.bounds
        total = self._requests if self._requests is not None else self._duration_s
        self._task = self._bar.add_task("measuring", total=servers * (total or 0), done="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, measured: Bench) -> None:
        """As of now."""
        task = self._bar.tasks[0]
        by_count = self._requests is not None
        done = f"{measured.answered} requests"
        if measured.failed:
            done += f", {measured.failed} failed"
        self._bar.update(
            self._task, completed=measured.answered if by_count else task.elapsed or 0, done=done
        )
