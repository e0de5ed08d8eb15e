"""From a parsed command line to a plan on the screen or to a running tree."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from dynamo_cli.cli import plan
from dynamo_cli.cli.machine import read_machine
from dynamo_cli.cli.resolve import Typed, resolve, warnings
from dynamo_cli.cli.views import LiveView, NullView, PlainView
from dynamo_cli.models import catalog

if TYPE_CHECKING:
    from dynamo_cli.config import ServeConfig
    from dynamo_cli.models.progress import Progress
    from dynamo_cli.supervisor.view import View

PLAIN, NONE = "plain", "none"


def show_plan(typed: Typed, *, as_json: bool) -> None:
    """Print what would be started."""
    config = resolve(typed, read_machine())
    if as_json:
        sys.stdout.write(plan.to_json(config) + "\n")
    else:
        plan.show(config, Console())


def serve(typed: Typed, ui: str) -> int:
    """Find the model, start the tree, and stay until it ends.

    Returns:
        the exit code.
    """
    from dynamo_cli import supervisor  # noqa: PLC0415 - a dry run needs none of it

    config = resolve(typed, read_machine())
    console = Console(stderr=True)
    view = _view(ui, console, config.engine.log_level)
    for warning in warnings(typed):
        view.notice("WARNING", warning)
    return supervisor.run(_with_model(config, console, view), view)


def _view(ui: str, console: Console, log_level: str) -> View:
    if ui == NONE:
        return NullView(sys.stderr)
    if ui == PLAIN or not console.is_terminal:
        return PlainView(sys.stderr, log_level)
    return LiveView(console, log_level)


def _with_model(config: ServeConfig, console: Console, view: View) -> ServeConfig:
    """The plan with the place of the model's files; fetching them shows."""
    model = config.engine.model
    if isinstance(view, LiveView):
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
        with Bar(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
            found = catalog.resolve(model, _BarStages(bar))
    else:
        found = catalog.resolve(model, _LineStages(view))
    return replace(config, engine=replace(config.engine, path=found.path))


class _BarStages:
    """Progress of fetching a model as bars, one per stage."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._task = self._bar.add_task(progress.stage, total=None)
        if progress.fraction is not None:
            self._bar.update(self._task, total=1.0, completed=progress.fraction)


class _LineStages:
    """The same as one line per stage."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._view.notice("INFO", progress.stage)
