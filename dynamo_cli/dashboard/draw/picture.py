"""Draws the live picture of the tree. Every box has a phase, the requests that wait there, what
limits it and how long requests are there; every arrow has the rate of what goes along it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.canvas import Canvas, pad
from dynamo_cli.dashboard.draw.style import ACCENT, FAINT, fitting, phase_style, phase_text
from dynamo_cli.dashboard.model import Board
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.topology import Role
from dynamo_cli.watch.host_cache_schema import HostCacheView
from dynamo_cli.watch.schema import PrefillView, ProcessView, RouterView, Snapshot

BOX_LEAST, BOX_MOST, ARROW_LEAST, ARROW_MOST = 15, 20, 6, 18
WIDE_ARROW = 12
LEAST_WIDTH = 4 * BOX_LEAST + 3 * ARROW_LEAST
HIGH, FLAT, GAP = 6, 3, 2
"""Heights of a box with four lines, of a box with one line, and of vertical arrows."""
BRIEF = {"run+wait": "r+w", "CPU": ""}
WAITS_FOR_CORE = 0.1
"""A process often waits for a core if it wants so much more than it uses, in cores."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Geometry of the picture.

    Attributes:
        box: width of a box.
        arrow: width of a horizontal arrow.
        row: first line of the middle row of boxes.
    """

    box: int
    arrow: int
    row: int

    def x(self, place: int) -> int:
        """Return the left column of a box of the middle row."""
        return place * (self.box + self.arrow)

    def inside(self, boxes: int) -> int:
        """Return the width of the text in a box that spans `boxes` boxes of the middle row."""
        width = self.across(boxes)
        return width - 2 - 2 * pad(width)

    def across(self, boxes: int) -> int:
        """Return the width of a box that spans `boxes` boxes of the middle row."""
        return boxes * self.box + (boxes - 1) * self.arrow


def widths(board: Board) -> tuple[int, int]:
    """Return the width that the picture needs with boxes of full size, and the most that it
    uses."""
    boxes = 4 if _of(board, Role.PREFILL_QUEUE) else 3
    arrows = boxes - 1
    return boxes * BOX_MOST + arrows * ARROW_LEAST, boxes * BOX_MOST + arrows * ARROW_MOST


def height(board: Board) -> int:
    """Return the number of lines that the picture needs."""
    router = FLAT + GAP if _of(board, Role.ROUTER) else 0
    return _top(board) + HIGH + router


def _top(board: Board) -> int:
    """Return the number of lines above the middle row."""
    above = _of(board, Role.PREFILL_QUEUE) or _of(board, Role.HOST_CACHE)
    return FLAT + GAP if above else 0


def draw(board: Board, width: int) -> Text:
    """Draw the picture in `height(board)` lines."""
    canvas = Canvas(width, height(board))
    disaggregated = bool(_of(board, Role.PREFILL_QUEUE))
    layout = _layout(width, 4 if disaggregated else 3, _top(board))
    _draw_middle(canvas, layout, board)
    if disaggregated:
        _draw_prefill(canvas, layout, board)
    if cache := _of(board, Role.HOST_CACHE):
        host_cache = board.snapshot.host_cache if board.snapshot else None
        line = fitting(layout.inside(2), [phase_text(cache), *_host_cache_numbers(host_cache)])
        _draw_host_cache(canvas, layout, line, _frame(cache), beside=disaggregated)
        _draw_copies(canvas, layout, host_cache, beside=disaggregated)
    if _of(board, Role.ROUTER):
        _draw_router(canvas, layout, board)
    return canvas.text()


def _layout(width: int, boxes: int, row: int) -> _Layout:
    box = min(max((width - (boxes - 1) * ARROW_LEAST) // boxes, BOX_LEAST), BOX_MOST)
    arrow = min(max((width - boxes * box) // (boxes - 1), ARROW_LEAST), ARROW_MOST)
    return _Layout(box, arrow, row)


def _of(board: Board, role: Role) -> list[ProcessView]:
    return [process for process in board.processes if process.role == role]


def _draw_middle(canvas: Canvas, at: _Layout, board: Board) -> None:
    snapshot = board.snapshot
    boxes = (
        ("HTTP", Role.FRONTEND, _http(board)),
        ("processors", Role.PROCESSOR, _processors(board)),
        ("workers", Role.WORKER, _workers(snapshot)),
    )
    for place, (title, role, numbers) in enumerate(boxes):
        _box(canvas, at, place, title, _of(board, role), numbers)
    requests = show.rate(snapshot.traffic.requests_per_s) if snapshot else ""
    tokens = show.number(snapshot.traffic.output_tokens_per_s) if snapshot else ""
    tokens += ("/s" if at.arrow < WIDE_ARROW else " tok/s") if tokens else ""
    for place in range(2):
        _arrows(canvas, at, place, requests, tokens)


def _box(
    canvas: Canvas,
    at: _Layout,
    place: int,
    title: str,
    processes: list[ProcessView],
    numbers: list[tuple[str, str]],
) -> None:
    """Draw a box of the middle row."""
    lines = [phase_text(processes)] if processes else [Text(show.NONE, FAINT)]
    lines += [_pair(label, value, at.box - 2 * pad(at.box) - 2) for label, value in numbers]
    canvas.box(at.x(place), at.row, at.box, title, lines, _frame(processes))


def _pair(label: str, value: str, width: int) -> Text:
    """Draw a line of a box; where there is little room, the figure is whole and the rest is not."""
    if len(label) + 1 + len(value) > width:
        if label in BRIEF:
            label = BRIEF[label]
        elif "/" in value:  # of two times the second is left
            label, value = "p95", value.partition("/")[2]
    return Text.assemble((label, FAINT), " " * max(width - len(label) - len(value), 1), value)


def _frame(processes: list[ProcessView]) -> str:
    broken = [one for one in processes if one.phase != Phase.READY]
    return phase_style(broken[0].phase) if broken else ACCENT


def _arrows(canvas: Canvas, at: _Layout, place: int, there: str, back: str) -> None:
    """Draw the arrows between two boxes of the middle row: requests above, answers below."""
    x, line = at.x(place) + at.box, "─" * (at.arrow - 1)
    canvas.put(x, at.row, there.center(at.arrow))
    canvas.put(x, at.row + 1, line + "►", ACCENT)
    if back:
        canvas.put(x, at.row + 4, "◄" + line, ACCENT)
        canvas.put(x, at.row + 5, back.center(at.arrow))


def _down(canvas: Canvas, x: int, y: int, label: str) -> None:
    canvas.put(x, y, "│", ACCENT)
    canvas.put(x, y + 1, "▼", ACCENT)
    canvas.put(x + 2, y, label)


def _up(canvas: Canvas, x: int, y: int, label: str) -> None:
    canvas.put(x, y, "▲", ACCENT)
    canvas.put(x, y + 1, "│", ACCENT)
    canvas.put(x + 2, y + 1, label)


def _http(board: Board) -> list[tuple[str, str]]:
    snapshot = board.snapshot
    if snapshot is None:
        return [("in flight", show.NONE), ("waiting", show.NONE), ("CPU", show.NONE)]
    return [
        ("in flight", show.number(snapshot.traffic.in_flight)),
        ("waiting", show.number(snapshot.queues.frontend)),
        ("CPU", cpu(board, Role.FRONTEND)),
    ]


def _processors(board: Board) -> list[tuple[str, str]]:
    snapshot = board.snapshot
    if snapshot is None:
        return [("waiting", show.NONE), ("CPU", show.NONE), ("took", show.NONE)]
    return [
        ("waiting", show.number(snapshot.queues.processors)),
        ("CPU", cpu(board, Role.PROCESSOR)),
        ("took", took(snapshot, "tokenize")),
    ]


def _workers(snapshot: Snapshot | None) -> list[tuple[str, str]]:
    if snapshot is None or not snapshot.workers:
        return [("running", show.NONE), ("KV use", show.NONE), ("wait", show.NONE)]
    running = sum(worker.num_running_reqs for worker in snapshot.workers)
    waiting = sum(worker.num_waiting_reqs for worker in snapshot.workers)
    usage = fmean(worker.kv_cache_usage for worker in snapshot.workers)
    waits = f"+{show.number(waiting)}" if waiting else ""
    return [
        ("run+wait" if waiting else "running", show.number(running) + waits),
        ("KV use", show.percent(usage)),
        ("wait", took(snapshot, "queue")),
    ]


def cpu(board: Board, role: Role) -> str:
    """Draw the share of a core that the busiest process of a role uses, and after a slash what it
    would use, if it often waits for a core."""
    known = [one for one in _of(board, role) if one.cpu_demand is not None]
    busiest = max(known, key=lambda one: one.cpu_demand or 0.0, default=None)
    if busiest is None or busiest.cpu_demand is None:
        return show.NONE
    wanted, used = busiest.cpu_demand, busiest.cpu_cores
    if used is None or wanted - used < WAITS_FOR_CORE:
        return show.percent(wanted)
    return f"{round(used * 100)}/{show.percent(wanted)}"


def took(snapshot: Snapshot, stage: str) -> str:
    """Draw median and 95th percentile of the time in a stage."""
    found = next((one for one in snapshot.stages if one.stage == stage), None)
    return show.two_times(found.p50_s, found.p95_s) if found else show.NONE


def _draw_prefill(canvas: Canvas, at: _Layout, board: Board) -> None:
    """Draw the queue on the right and the prefill workers above."""
    prefill = board.snapshot.prefill if board.snapshot else None
    numbers = [
        ("depth", show.number(prefill.depth_jobs) if prefill else show.NONE),
        ("oldest", show.seconds(prefill.oldest_age_s) if prefill else show.NONE),
        ("wait", took(board.snapshot, "prefill queue") if board.snapshot else show.NONE),
    ]
    _box(canvas, at, 3, "prefill queue", _of(board, Role.PREFILL_QUEUE), numbers)
    flow = board.flow
    canvas.put(at.x(2) + at.box, at.row, "push".center(at.arrow), FAINT)
    canvas.put(at.x(2) + at.box, at.row + 1, "─" * (at.arrow - 1) + "►", ACCENT)
    canvas.put(at.x(2) + at.box, at.row + 2, show.rate(flow.pushed).center(at.arrow))
    workers = _of(board, Role.PREFILL_WORKER)
    parts = [phase_text(workers) if workers else "", *_prefill_numbers(prefill)]
    line = fitting(at.inside(2), parts)
    canvas.box(at.x(2), 0, at.across(2), "prefill workers", [line], _frame(workers))
    _down(canvas, at.x(2) + 3, FLAT, f"notify {show.rate(flow.notified)}")
    _up(canvas, at.x(3) + 1, FLAT, f"pull {show.rate(flow.pulled)}")


def _prefill_numbers(prefill: PrefillView | None) -> list[Text]:
    if prefill is None:
        return []
    return [Text.assemble(("busy ", FAINT), show.number(prefill.in_flight_jobs))]


def _draw_host_cache(canvas: Canvas, at: _Layout, line: Text, frame: str, *, beside: bool) -> None:
    """Draw the host cache above the workers, or to the left of the prefill workers."""
    canvas.box(at.x(0 if beside else 1), 0, at.across(2), "host cache", [line], frame)


def _draw_copies(canvas: Canvas, at: _Layout, cache: HostCacheView | None, *, beside: bool) -> None:
    """Draw the arrows between the host cache and the engines: loads, and stores."""
    if beside:
        x = at.x(1) + at.box
        canvas.put(x, 1, "◄" + "─" * (at.arrow - 2) + "►", ACCENT)
        return
    x = at.x(2)
    load, store = (
        (cache.loaded_bytes_per_s, cache.stored_bytes_per_s) if cache is not None else (0.0, 0.0)
    )
    canvas.put(x, FLAT, "▲ │", ACCENT)
    canvas.put(x, FLAT + 1, "│ ▼", ACCENT)
    canvas.put(x + 4, FLAT, f"load {show.size_rate(load)}")
    canvas.put(x + 4, FLAT + 1, f"store {show.size_rate(store)}")


def _host_cache_numbers(cache: HostCacheView | None) -> list[Text | str]:
    if cache is None:
        return []
    used = cache.used / cache.slots if cache.slots else None
    numbers: list[Text | str] = [
        Text.assemble(("used ", FAINT), show.percent(used)),
        Text.assemble(("found ", FAINT), show.percent(cache.recent_found_ratio)),
    ]
    if (disk := cache.disk) is not None:
        full = disk.used / disk.places if disk.places else None
        numbers.append(Text.assemble(("disk ", FAINT), "off" if disk.off else show.percent(full)))
    return numbers


def _draw_router(canvas: Canvas, at: _Layout, board: Board) -> None:
    """Draw the router below processors and workers."""
    y = at.row + HIGH
    router = board.snapshot.router if board.snapshot else None
    parts = [phase_text(_of(board, Role.ROUTER)), *_router_numbers(router, board)]
    line = fitting(at.inside(2), parts)
    canvas.box(at.x(1), y + GAP, at.across(2), "router", [line], _frame(_of(board, Role.ROUTER)))
    _down(canvas, at.x(1) + 1, y, show.rate(board.flow.decisions))
    _up(canvas, at.x(1) + at.box - 2, y, "")
    canvas.put(at.x(1) + 3, y + 1, "query", FAINT)
    events = show.rate(router.event_blocks_per_s) if router else ""
    _down(canvas, at.x(2) + 3, y, f"blocks {events}")


def _router_numbers(router: RouterView | None, board: Board) -> list[Text | str]:
    if router is None or board.snapshot is None:
        return []
    waits, decided = board.snapshot.queues.router, sum(router.decisions.values())
    return [
        f"{show.number(waits)} wait" if waits else f"{show.number(decided)} decided",
        took(board.snapshot, "route"),
        Text.assemble(("CPU ", FAINT), cpu(board, Role.ROUTER)),
        router.policy,
    ]
