"""Defines the table of workers, and the strips of workers on the overview. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import msgspec
from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw import gpus
from dynamo_cli.dashboard.draw.style import (
    ACCENT,
    FAINT,
    STRONG,
    WARN,
    glyph,
    phase_mark,
    phase_style,
)
from dynamo_cli.dashboard.draw.table import Column, Spec, fit
from dynamo_cli.dashboard.draw.tables import processes_of, restarts
from dynamo_cli.dashboard.history import NO_SAMPLE, WORKER_KEPT, WorkerSample, peak_of
from dynamo_cli.dashboard.model import Board
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.watch.schema import GpuView, ProcessView, WorkerView

KV_BAR = 4
HIGH_USE = 0.9
ASLEEP = "☾"
SHORT_SPAN = 60
"""Seconds of the curves while no more is known."""

TREND = 20
"""Least width of a curve in the table."""

STRIPS_WIDTH = 56
"""Least width of the strips."""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's engine with its process, its GPUs, and its samples of the last minutes.

    Attributes:
        peak: the highest figures of all workers in that time, so that their curves compare.
    """

    view: WorkerView
    process: ProcessView | None
    gpus: tuple[GpuView, ...] = ()
    samples: tuple[WorkerSample, ...] = ()
    peak: WorkerSample = NO_SAMPLE

    @property
    def name(self) -> str:
        """Name of the process."""
        return ProcessId(Role.WORKER, self.view.worker).name


def workers_of(board: Board) -> list[Worker]:
    """Return the rows of the table of workers."""
    processes = {process.name: process for process in processes_of(board)}
    known = board.snapshot.gpus if board.snapshot else []
    peak = peak_of(sample for samples in board.worker_samples.values() for sample in samples)
    rows = []
    for view in board.snapshot.workers if board.snapshot else []:
        name = ProcessId(Role.WORKER, view.worker).name
        own = tuple(gpu for gpu in known if name in gpu.engines)
        samples = board.worker_samples.get(view.worker, ())
        rows.append(Worker(view, processes.get(name), own, samples, peak))
    return rows


def _name(row: Worker) -> Text:
    if row.process is None:
        return Text(f"? {row.view.worker}", FAINT)
    if row.view.asleep:
        return Text(f"{ASLEEP} {row.view.worker}", WARN)
    phase = row.process.phase
    return Text(f"{glyph(phase)} {row.view.worker}", phase_style(phase))


def _state(row: Worker) -> Text:
    if row.view.asleep:
        return Text(f"{ASLEEP} asleep", WARN)
    return phase_mark(row.process.phase if row.process else Phase.STOPPED)


def _kv(row: Worker) -> Text:
    usage = row.view.kv_cache_usage
    style = WARN if usage >= HIGH_USE else ACCENT
    return Text.assemble((show.bar(usage, KV_BAR), style), f"{show.percent(usage):>6}")


def _ttft(row: Worker) -> str:
    view = row.view
    if view.ttft_p50_s is None:
        return show.NONE
    return f"{_short_ms(view.ttft_p50_s)}/{_short_ms(view.ttft_p95_s)}"


def _short_ms(value_s: float | None) -> str:
    """Format milliseconds in at most four characters, so that two times fit the column."""
    return f"{value_s:.0f}k" if value_s and value_s >= 9.95 else show.milliseconds(value_s)


def _rate(value: float) -> str:
    return show.number(round(value))


def curve(row: Worker, value: Callable[[WorkerSample], float | None]) -> list[float | None]:
    """Return the values of the last minute, or of five when more are known, oldest first; None for
    the time before the first sample."""
    known = [value(sample) for sample in row.samples]
    span = SHORT_SPAN if len(known) <= SHORT_SPAN else WORKER_KEPT
    return [None] * (span - len(known)) + known


def _trend(value: Callable[[WorkerSample], float | None]) -> Callable[[Worker, int], Text]:
    return lambda row, width: Text(
        show.chart(curve(row, value), width, 1, value(row.peak))[0], ACCENT
    )


def _trend_column(
    title: str, value: Callable[[WorkerSample], float | None], from_width: int
) -> Column[Worker]:
    return Column(
        *(title, TREND, lambda _: ""),
        from_width=from_width,
        stretch=True,
        wide=_trend(value),
    )


DEVICE: Column[Worker] = Column("on", 5, lambda row: row.process.device if row.process else "")
_TRENDS: tuple[Column[Worker], ...] = (
    _trend_column("output tok/s, ≤ 5 min", lambda one: one.output_tokens_per_s, 115),
    _trend_column("TTFT p95, ≤ 5 min", lambda one: one.ttft_p95_s, 140),
    _trend_column("run + wait, ≤ 5 min", lambda one: one.running + one.waiting, 165),
)
_GPU: tuple[Column[Worker], ...] = (
    Column(
        *("GPU", 5, lambda row: show.percent(gpus.use(row.gpus))),
        lambda row: gpus.use(row.gpus) or 0.0,
        right=True,
        from_width=93,
    ),
    Column(
        *("GPU mem", 8, lambda row: show.size(gpus.memory(row.gpus, row.name) or 0)),
        lambda row: gpus.memory(row.gpus, row.name) or 0,
        right=True,
        from_width=93,
    ),
    Column(
        *("power", 6, lambda row: gpus.watts(row.gpus)),
        lambda row: sum(gpu.power_watts or 0.0 for gpu in row.gpus),
        right=True,
        from_width=107,
    ),
    Column(
        *("temp", 6, lambda row: gpus.hottest(row.gpus)),
        lambda row: max((gpu.temperature_c or 0 for gpu in row.gpus), default=0),
        right=True,
        from_width=107,
    ),
)
_RUN: Column[Worker] = Column(
    *("run", 4, lambda row: show.number(row.view.num_running_reqs)),
    lambda row: row.view.num_running_reqs,
    right=True,
)
_WAIT: Column[Worker] = Column(
    *("wait", 4, lambda row: show.number(row.view.num_waiting_reqs)),
    lambda row: row.view.num_waiting_reqs,
    right=True,
)
_KV: Column[Worker] = Column("KV use", 10, _kv, lambda row: row.view.kv_cache_usage)
_HIT: Column[Worker] = Column(
    *("hit", 5, lambda row: show.percent(row.view.recent_hit_ratio)),
    lambda row: row.view.recent_hit_ratio or 0.0,
    right=True,
)
_MEMORY: Column[Worker] = Column(
    *("memory", 7, lambda row: show.size(row.process.rss_bytes if row.process else 0)),
    lambda row: row.process.rss_bytes if row.process else 0,
    right=True,
)

_COLUMNS: tuple[Column[Worker], ...] = (
    Column("", 4, _name, lambda row: row.view.worker),
    Column("state", 15, _state, lambda row: _state(row).plain, from_width=100),
    Column("↻", 2, lambda row: restarts(row.process), right=True),
    _RUN,
    _WAIT,
    _KV,
    _HIT,
    Column(
        *("in/s", 5, lambda row: _rate(row.view.prompt_tokens_per_s)),
        lambda row: row.view.prompt_tokens_per_s,
        right=True,
    ),
    Column(
        *("out/s", 5, lambda row: _rate(row.view.output_tokens_per_s)),
        lambda row: row.view.output_tokens_per_s,
        right=True,
    ),
    Column("TTFT ms", 9, _ttft, lambda row: row.view.ttft_p95_s or 0.0, right=True),
    Column(
        *("ITL ms", 6, lambda row: show.milliseconds(row.view.itl_p95_s)),
        lambda row: row.view.itl_p95_s or 0.0,
        right=True,
    ),
)

GPU_WIDTH = sum(column.width + 1 for column in _GPU)

WORKERS: Spec[Worker] = Spec(
    columns=(*_COLUMNS, _MEMORY, DEVICE, *_TRENDS),
    key=lambda row: row.name,
    words=lambda row: f"{row.name} {_state(row)} {row.process.device if row.process else ''}",
    copied=lambda row: msgspec.json.encode(row.view).decode(),
    tail=False,
    empty="no worker is known yet",
    fields={
        "worker": lambda row: row.view.worker,
        "state": lambda row: _state(row).plain,
        "run": lambda row: row.view.num_running_reqs,
        "wait": lambda row: row.view.num_waiting_reqs,
        "kv": lambda row: row.view.kv_cache_usage,
        "hit": lambda row: row.view.recent_hit_ratio,
        "in": lambda row: row.view.prompt_tokens_per_s,
        "out": lambda row: row.view.output_tokens_per_s,
        "ttft": lambda row: row.view.ttft_p95_s,
        "itl": lambda row: row.view.itl_p95_s,
        "restarts": lambda row: row.process.restarts if row.process else None,
        "device": lambda row: row.process.device if row.process else "",
        "gpu": lambda row: gpus.use(row.gpus),
    },
)


def _later(columns: Iterable[Column[Worker]]) -> Iterator[Column[Worker]]:
    """Columns that some widths leave out need more width where there are columns of GPUs too."""
    for column in columns:
        more = GPU_WIDTH if column.from_width else 0
        yield replace(column, from_width=column.from_width + more)


GPU_WORKERS = replace(
    WORKERS, columns=(*_later(_COLUMNS), *_GPU, _MEMORY, DEVICE, *_later(_TRENDS))
)
"""The same with columns about the GPUs of each worker."""

_STRIP: tuple[Column[Worker], ...] = (
    Column("", 4, _name),
    _RUN,
    _WAIT,
    _KV,
    _HIT,
    Column(
        *("tok/s", 5, lambda row: _rate(row.view.output_tokens_per_s)),
        right=True,
    ),
    Column("TTFT p95", 8, lambda row: show.seconds(row.view.ttft_p95_s), right=True),
    _trend_column("tok/s, ≤ 5 min", lambda one: one.output_tokens_per_s, 66),
)
_GPU_STRIP = (
    *_STRIP[:-1],
    replace(_GPU[0], from_width=0),
    _STRIP[-1],
)


def strips(board: Board, width: int, height: int) -> list[Text]:
    """Draw a line for each worker below a line of titles, as many as there is room for."""
    rows = workers_of(board)
    columns = _GPU_STRIP if any(row.gpus for row in rows) else _STRIP
    fitted = fit(columns, width)
    room = max(height - 1, 1)
    shown = rows if len(rows) <= room else rows[: room - 1]
    lines = [Text(fitted.head(), STRONG), *map(fitted.line, shown)]
    if len(shown) < len(rows):
        lines.append(Text(f"and {len(rows) - len(shown)} more workers in tab 2", FAINT))
    return lines
