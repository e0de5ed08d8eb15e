"""Shows the plan for a parsed command line, or starts the tree and waits for its end."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TaskProgressColumn

from dynamo_cli.cli import dry_run
from dynamo_cli.cli.forms import JSON
from dynamo_cli.cli.outputs import OutputViews, outputs
from dynamo_cli.cli.progress import bars
from dynamo_cli.cli.terminal import is_interactive
from dynamo_cli.cli.views import PlainView, outlet
from dynamo_cli.errors import DynamoError, UsageError
from dynamo_cli.host import cache
from dynamo_cli.models import catalog, weights
from dynamo_cli.plan import (
    disk_folder,
    log_file,
    ports,
    preflight,
    resolve_cluster,
    resolve_host_cache,
)
from dynamo_cli.plan.machine import Machine, read_machine
from dynamo_cli.plan.resolve import resolve, warnings
from dynamo_cli.plan.resolve_host_cache import sized_by_model
from dynamo_cli.plan.sizes import sized
from dynamo_cli.plan.typed import Typed

if TYPE_CHECKING:
    from dynamo_cli.models.progress import Progress
    from dynamo_cli.serve_config import ServeConfig
    from dynamo_cli.supervisor.view import View

AUTO, DASHBOARD, NONE = "auto", "dashboard", "none"
OTHER_PORT = "Choose another address with --host or another port with --http-port."


def show_plan(typed: Typed, *, as_json: bool) -> None:
    """Check the options and print what would be started."""
    config = resolve(typed, _machine(typed))
    preflight.check(typed, ask_hub=False)
    config = sized_by_model(config, typed, _weights_bytes(config))
    if as_json:
        sys.stdout.write(dry_run.to_json(config) + "\n")
    else:
        dry_run.show(config, Console())


def _machine(typed: Typed) -> Machine:
    """The resources of this machine, and of the cluster if engines run there."""
    machine = read_machine()
    if typed.ray is None:
        return machine
    from dynamo_cli.cluster.survey import survey  # noqa: PLC0415 - only with --ray

    resolve_cluster.check(typed)
    return replace(machine, cluster=survey(typed.ray))


def serve(typed: Typed, ui: str) -> int:
    """Find or fetch the model, run the process tree, and wait until it ends.

    Returns:
        the exit code.
    """
    with cache.usable() as moved:
        return _serve(typed, ui, moved)


def _serve(typed: Typed, ui: str, moved: str) -> int:
    machine = _machine(typed)
    config = resolve(typed, machine)
    log_file.check(typed)
    to_file = typed.log_file is not None
    dashboard = wants_dashboard(
        ui, is_interactive(), as_json=typed.log_format == JSON and not to_file
    )
    if (dashboard or ui == NONE) and not to_file:
        config = replace(config, frontend=replace(config.frontend, access_log=False))
    with outputs(typed, dashboard=dashboard, errors_only=ui == NONE) as out:
        view = out.beside_others(out.plain)
        for warning in (*filter(None, [moved]), *warnings(typed)):
            view.notice("WARNING", warning)
        try:
            config = _prepared(config, typed, machine, view, as_bars=dashboard)
            return _run(config, out, dashboard=dashboard)
        except DynamoError as error:
            return out.failed(error)


def _prepared(
    config: ServeConfig, typed: Typed, machine: Machine, view: View, *, as_bars: bool
) -> ServeConfig:
    """The plan after all checks, with the model's files in place."""
    preflight.check(typed, ask_hub=True)
    ports.check(config.frontend.host, config.frontend.port, OTHER_PORT)
    config = _with_model(config, view, as_bars=as_bars)
    config = sized_by_model(config, typed, _weights_bytes(config))
    _tell_of_memory(config, machine, view)
    return config


def _weights_bytes(config: ServeConfig) -> int:
    """Size of the model's weight files; 0 if they are not here."""
    model = config.engine.model
    folder = catalog.folder_of(model, ask_hub=False) if model else None
    return weights.size_bytes(folder) if folder is not None else 0


def _tell_of_memory(config: ServeConfig, machine: Machine, view: View) -> None:
    """Say how much memory the host cache will take; warn if there is less, or if engines of a node
    cannot hand blocks over."""
    if config.host_cache is not None:
        size = sized(config.host_cache.size_bytes)
        where = "on each node " if config.cluster is not None else ""
        view.notice(
            "INFO", f"host cache: up to {size} of memory {where}for KV blocks of all engines"
        )
        if (disk := config.host_cache.disk) is not None:
            view.notice("INFO", f"disk cache: up to {sized(disk.size_bytes)} in {disk.folder}")
    of_disk = disk_folder.warnings(config.host_cache)
    for warning in (*resolve_host_cache.warnings(config, machine), *of_disk):
        view.notice("WARNING", warning)
    if config.cluster is not None:
        for warning in resolve_cluster.warnings(config.cluster, config.engine.kv_transfer):
            view.notice("WARNING", warning)


def plan_with_model(typed: Typed) -> ServeConfig:
    """Resolve the plan and fetch the model's files, with progress on standard error."""
    config = resolve(typed, _machine(typed))
    preflight.check(typed, ask_hub=True)
    terminal = sys.stderr.isatty()
    out = outlet(sys.stderr)
    try:
        return _with_model(config, PlainView(out), as_bars=terminal)
    finally:
        out.close()


def wants_dashboard(ui: str, terminal: bool, *, as_json: bool) -> bool:
    """Whether the dashboard is shown.

    Args:
        terminal: whether there is a terminal for it.
        as_json: whether the log is in JSON, for programs.

    Raises:
        UsageError: it was asked for, but cannot be shown.
    """
    if ui == DASHBOARD and as_json:
        raise UsageError("--log-format json goes with --ui plain, not with the dashboard.")
    if ui == DASHBOARD and not terminal:
        raise UsageError("--ui dashboard needs a terminal; --ui plain needs none.")
    return ui == DASHBOARD or (ui == AUTO and terminal and not as_json)


def _run(config: ServeConfig, out: OutputViews, *, dashboard: bool) -> int:
    """Run the tree until it ends; returns its exit code."""
    from dynamo_cli import supervisor  # noqa: PLC0415 - a dry run needs none of it

    if not dashboard:
        return supervisor.run(config, out.beside_others(out.plain))
    from dynamo_cli.dashboard.embedded import Embedded  # noqa: PLC0415 - only runs that show it load it

    key = next(iter(config.frontend.api_keys), "")
    view = Embedded(out.plain, api_key=key)
    return asyncio.run(view.beside(supervisor.serve(config, out.beside_others(view))))


def _with_model(config: ServeConfig, view: View, *, as_bars: bool) -> ServeConfig:
    """Complete the plan with the path of the model's files, which are fetched if necessary."""
    model = config.engine.model
    if as_bars:
        with bars(TaskProgressColumn()) as bar:
            found = catalog.resolve(model, _BarStages(bar))
    else:
        found = catalog.resolve(model, _LineStages(view))
    return replace(config, engine=replace(config.engine, path=found.path))


class _BarStages:
    """Shows progress of fetching a model as bars, one per stage."""

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
    """Shows progress of fetching a model as lines, one per stage."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._stage = ""

    def __call__(self, progress: Progress) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            self._view.notice("INFO", progress.stage)
