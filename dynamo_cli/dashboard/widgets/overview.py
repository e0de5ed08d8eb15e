"""The overview tab: the picture of the tree, the start, what needs attention, and curves."""

from __future__ import annotations

from collections.abc import Callable

from rich.text import Text
from textual.app import ComposeResult

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw import overview, top, trends
from dynamo_cli.dashboard.draw.trends import Curve
from dynamo_cli.dashboard.draw.workers import strips
from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab

BOTH_FROM_LINES = 36
"""From this height on, the picture is shown during the start too."""

PICTURE_AND_CURVES = 18
"""Lines that are left to the picture and a few curves when strips are below the picture."""

PICTURE_GAP = 1
"""Empty lines below the picture."""

LEAST_ATTENTION = 2
"""Lines of what needs attention that are more important than the times of the stages: the first
one, and the key that shows all of it."""

CURVES = (
    Curve("requests/s", lambda one: one.requests_per_s),
    Curve("output tok/s", lambda one: one.output_tokens_per_s),
    Curve("TTFT p95", lambda one: one.ttft_p95_s, show.seconds),
    Curve("ITL p95", lambda one: one.itl_p95_s, show.seconds),
    Curve("in flight", lambda one: one.in_flight),
    Curve("hit rate, measured", lambda one: one.hit_measured, show.percent, 1.0),
    Curve("waiting requests", lambda one: one.waiting),
    Curve("prompt tok/s", lambda one: one.prompt_tokens_per_s),
    Curve("GPU use", lambda one: one.gpu_utilization, show.percent, 1.0),
)


class OverviewTab(Tab):
    """The first tab, with the picture.

    Args:
        span_s: returns the time span of the curves, seconds.
    """

    def __init__(self, span_s: Callable[[], int]) -> None:
        super().__init__(id="overview")
        self._span_s = span_s

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(self._picture, id="picture")
        yield Pane(lambda board, width, _: overview.startup(board, width), id="startup")
        yield Pane(lambda board, width, _: overview.times(board.snapshot, width), id="stages")
        yield Pane(self._attention, id="attention", dims=False)
        yield Pane(self._strips, id="strips")
        yield Pane(self._trends, id="trends", classes="trends")

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        room = self.size.height >= BOTH_FROM_LINES
        starting = board.starting or board.snapshot is None
        self.query_one("#picture").display = bool(board.processes) and (room or not starting)
        short = top.is_list(*self._inner)
        self.query_one("#picture").set_class(short, "list")
        self.query_one("#strips").display = not starting and top.below(board, *self._inner)
        self.query_one("#startup").display = starting
        self.query_one("#trends").display = not starting
        known = board.snapshot is not None and bool(board.snapshot.stages)
        self.query_one("#stages").display = known and not short and self._has_room_for_both(board)
        super().show(board)

    def _has_room_for_both(self, board: Board) -> bool:
        """Whether what needs attention can be seen below the times of the stages too."""
        width, height = self._inner
        needed = min(_count(overview.attention(board)), LEAST_ATTENTION)
        needed += _count(overview.times(board.snapshot, width))
        return self._of_picture(board, width) + needed <= height

    @property
    def _inner(self) -> tuple[int, int]:
        """Width and height of the tab without its padding."""
        return self.content_size.width, self.content_size.height

    def _picture(self, board: Board, width: int, _: int) -> Text:
        return top.draw(board, width, self._inner[1]) if board.processes else Text("")

    def _of_picture(self, board: Board, width: int) -> int:
        """Lines that the picture takes, with the gap below it."""
        if not self.query_one("#picture").display:
            return 0
        gap = 0 if top.is_list(*self._inner) else PICTURE_GAP
        return _count(self._picture(board, width, 0)) + gap

    def _attention(self, board: Board, width: int, _: int) -> Text:
        above = self._of_picture(board, width)
        if self.query_one("#stages").display:
            above += _count(overview.times(board.snapshot, width))
        return overview.within(overview.attention(board), width, self._inner[1] - above)

    def _strips(self, board: Board, width: int, _: int) -> Text:
        free = self._inner[1] - PICTURE_AND_CURVES
        return Text("\n").join(strips(board, width, max(free, 3)))

    def _trends(self, board: Board, width: int, height: int) -> Text:
        return trends.draw(board.samples, CURVES, width, height, self._span_s())


def _count(text: Text) -> int:
    return text.plain.count("\n") + 1
