"""Progress bars of commands that take a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

if TYPE_CHECKING:
    from dynamo_cli.lab.load.bench import Bench, BenchPlan


SHOW_S = 0.2
"""Shortest time between two updates of the figures of `ProgressBar`, seconds."""


def bars(*more: ProgressColumn) -> Bar:
    """Progress bars on standard error; nothing is shown where that is no terminal.

    Args:
        more: columns between the bar and the elapsed time.
    """
    console = Console(stderr=True)
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        *more,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class ProgressBar:
    """The progress of ``bench`` as one bar; a context manager that shows it."""

    def __init__(self, plan: BenchPlan, servers: int) -> None:
        self._bar = bars(TextColumn("{task.fields[done]}"))
        self._requests, self._duration_s = plan.bounds
        total = self._requests if self._requests is not None else self._duration_s
        self._task = self._bar.add_task("measuring", total=servers * (total or 0), done="")
        self._shown_s = 0.0

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, measured: Bench) -> None:
        """Update the bar to what has been measured so far, a few times a second at most."""
        now = time.monotonic()
        if now - self._shown_s < SHOW_S:
            return
        self._shown_s = now
        task = self._bar.tasks[0]
        by_count = self._requests is not None
        done = f"{measured.answered} requests"
        if measured.failed:
            done += f", {measured.failed} failed"
        if (live := measured.live) is not None:
            done += (
                f"; {live.output_tokens_per_s:.0f} tok/s, {live.requests_per_s:.3g} requests/s, "
                f"TTFT {live.ttft_ms:.0f} ms"
            )
        self._bar.update(
            self._task, completed=measured.answered if by_count else task.elapsed or 0, done=done
        )
