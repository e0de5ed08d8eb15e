"""A table of keyed rows, of which only the visible ones are drawn.

Textual's own table has an object for each cell. Here ten thousand rows cost no more to draw than
the twenty that are visible, and a row keeps its position unless the user sorts or filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import var
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from dynamo_cli.dashboard.draw.style import toned
from dynamo_cli.dashboard.draw.table import Column, Fitted, Spec, fit
from dynamo_cli.dashboard.filters import Filter, parse

T = TypeVar("T")
ASCENDING, DESCENDING = "▲", "▼"
CACHED = 2_000
"""Most rows that are kept drawn."""


class Table(ScrollView, Generic[T], can_focus=True):
    """Shows items in the columns of a `Spec`.

    Attributes:
        spec: the kind of table.
        follow: whether it scrolls to its end when rows are added.
        stale: whether its items are out of date; they are drawn faint then.
    """

    stale = var(False, init=False)

    COMPONENT_CLASSES = {"table--head", "table--cursor"}
    BINDINGS = [
        Binding("up,k", "move(-1)", "up", show=False),
        Binding("down,j", "move(1)", "down", show=False),
        Binding("pageup", "page(-1)", "page up", show=False),
        Binding("pagedown", "page(1)", "page down", show=False),
        Binding("home,g", "first", "first", show=False),
        Binding("end,G", "last", "last", show=False),
        Binding("enter", "open", "details", show=False),
    ]

    class Opened(Message):
        """The user has opened a row, to see it in full."""

        def __init__(self, table: Table[Any], item: object) -> None:
            super().__init__()
            self.table = table
            self.item = item

    class Sorted(Message):
        """The user has clicked on the title of a column."""

        def __init__(self, table: Table[Any]) -> None:
            super().__init__()
            self.table = table

    def __init__(self, spec: Spec[T], *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self.spec = spec
        self.follow = spec.tail
        self._items: Sequence[T] = ()
        self._rows: list[T] = []
        self._places: dict[str, int] = {}
        self._cursor = ""
        self._typed = ""
        self._filter: Filter[T] = Filter()
        self._matches: dict[str, tuple[T, bool]] = {}
        self._column: Column[T] | None = None
        self._descending = False
        self._order: dict[str, int] = {}
        self._fitted_width = 80
        self._fitted: Fitted[T] = fit(spec.columns, self._fitted_width)
        self._strips: dict[str, tuple[T, Strip]] = {}

    # -- what it shows -----------------------------------------------------------------------

    def show(self, items: Sequence[T]) -> None:
        """Show these items from now on; the rows of items that were there keep their places."""
        if list(items) != list(self._items):
            self._items = items
            self._arrange()

    def use(self, spec: Spec[T]) -> None:
        """Show the rows in other columns from now on."""
        if spec is not self.spec:
            self.spec = spec
            self._refit()

    def filter(self, text: str) -> None:
        """Show only rows that match, see `filters.parse`; an empty string shows all."""
        self._typed = text
        self._filter = parse(text, self.spec.words, self.spec.fields)
        self._matches.clear()
        self._arrange()

    @property
    def filtered(self) -> str:
        """The filter as it was typed; empty if all rows are shown."""
        return self._typed

    @property
    def order(self) -> str:
        """How the rows are sorted, for people."""
        if self._column is None:
            return "in the order of arrival" if self.spec.tail else "by name"
        return f"by {self._column.title or 'name'} {self._mark}"

    def sort_beside(self, step: int) -> None:
        """Sort by the next column, or by the one before if `step` is -1."""
        columns = [column for column, _ in self._fitted.columns if column.order]
        if not columns:
            return  # such as the log, which has one order
        if self._column in columns:
            place = (columns.index(self._column) + step) % len(columns)
        else:
            place = 0 if step > 0 else len(columns) - 1
        self._sort_by(columns[place])

    def sort_reset(self) -> None:
        """Show the rows in the order in which they came."""
        self._sort_by(None)

    def sort_reversed(self) -> None:
        """Reverse the sort order."""
        self._descending = not self._descending
        self._sort()

    def _sort_by(self, column: Column[T] | None) -> None:
        self._column = column
        self._descending = column is not None and column.right  # numbers: the largest first
        self._sort()

    def copied(self) -> str:
        """Return the text to copy for the row with the cursor."""
        item = self.current
        return self.spec.copied(item) if item is not None else ""

    @property
    def current(self) -> T | None:
        """The item at the cursor."""
        place = self._places.get(self._cursor)
        return self._rows[place] if place is not None else None

    def _sort(self) -> None:
        """Sort the current rows. Later rows are appended at the end until the next sort."""
        column = self._column
        self._order = {}
        if column is not None and column.order is not None:
            chosen = sorted(self._items, key=column.order, reverse=self._descending)
            self._order = {self.spec.key(item): place for place, item in enumerate(chosen)}
            self.follow = False
        else:
            self.follow = self.spec.tail
        self._arrange()

    def _arrange(self) -> None:
        key, last = self.spec.key, len(self._order)
        rows = [item for item in self._items if not self._typed or self._matching(item)]
        if self._order:
            rows.sort(key=lambda item: self._order.get(key(item), last))
        before = self._places.get(self._cursor)
        self._rows = rows
        self._places = {key(item): place for place, item in enumerate(rows)}
        self._keep_cursor(before)
        self.virtual_size = Size(self.size.width, len(rows) + 1)
        if self.follow:
            self._scroll(self.max_scroll_y)
        elif before is not None and before != (now := self._places.get(self._cursor, before)):
            self._scroll(self.scroll_y + now - before)
        self.refresh()

    def watch_show_vertical_scrollbar(self, shown: bool) -> None:
        """Tell a bar that appears after the table was scrolled where the table is."""
        if shown:
            self.vertical_scrollbar.position = self.scroll_y

    def _scroll(self, line: float) -> None:
        """Scroll to a line, even if there is no scroll bar yet."""
        self.scroll_to(y=line, animate=False, immediate=True, force=True)

    def _matching(self, item: T) -> bool:
        key = self.spec.key(item)
        known = self._matches.get(key)
        if known is None or known[0] is not item:
            if len(self._matches) > len(self._items) + CACHED:
                self._matches.clear()
            known = self._matches[key] = (item, self._filter.accepts(item))
        return known[1]

    def _keep_cursor(self, before: int | None) -> None:
        """Keep the cursor on its row; if the row is gone, at the end or near its old place."""
        if not self._rows:
            self._cursor = ""
        elif self.follow:
            self._cursor = self.spec.key(self._rows[-1])
        elif self._cursor not in self._places:
            place = min(before or 0, len(self._rows) - 1)
            self._cursor = self.spec.key(self._rows[place])

    def watch_stale(self) -> None:
        """Draw all rows again."""
        self._strips.clear()
        self.refresh()

    # -- moving ------------------------------------------------------------------------------

    def action_move(self, by: int) -> None:
        """Move the cursor by rows."""
        self._go(self._places.get(self._cursor, 0) + by)

    def action_page(self, by: int) -> None:
        """Move the cursor by pages."""
        self.action_move(by * max(self.size.height - 2, 1))

    def action_first(self) -> None:
        """Move the cursor to the first row."""
        self._go(0)

    def action_last(self) -> None:
        """Move the cursor to the last row."""
        self._go(len(self._rows) - 1)

    def action_open(self) -> None:
        """Open the row with the cursor."""
        if (item := self.current) is not None:
            self.post_message(self.Opened(self, item))

    def toggle_follow(self) -> bool:
        """Follow the end of the table, or stop following it; return whether it follows."""
        self.follow = self.spec.tail and not self.follow
        self._arrange()
        return self.follow

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the row, and open it at a double click; sort by the column of a title,
        and the other way at the next click."""
        place = int(self.scroll_offset.y) + event.y - 1
        if not event.y:
            self._sort_at(event.x)
        elif 0 <= place < len(self._rows):
            self._go(place)
            if event.chain == 2:
                self.action_open()

    def _sort_at(self, x: int) -> None:
        column = self._fitted.at(x)
        if column is None or column.order is None:
            return
        if column is self._column:
            self.sort_reversed()
        else:
            self._sort_by(column)
        self.post_message(self.Sorted(self))

    def on_resize(self, event: events.Resize) -> None:
        """Choose the columns that fit the new width."""
        self._refit()

    def _refit(self) -> None:
        self._fit()
        self._arrange()

    def _fit(self) -> None:
        self._fitted_width = self._line_width
        self._fitted = fit(self.spec.columns, self._fitted_width)
        self._strips.clear()

    def _on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self.follow = False
        super()._on_mouse_scroll_up(event)

    def _go(self, place: int) -> None:
        if not self._rows:
            return
        place = min(max(place, 0), len(self._rows) - 1)
        self._cursor = self.spec.key(self._rows[place])
        self.follow = self.spec.tail and not self._order and place == len(self._rows) - 1
        # The head covers the first visible line.
        self.scroll_to_region(Region(0, place, 1, 2), animate=False, immediate=True)
        self.refresh()

    # -- drawing -----------------------------------------------------------------------------

    @property
    def _line_width(self) -> int:
        return max(self.size.width - 1, 1)  # the scroll bar may take the last cell

    def notify_style_update(self) -> None:
        """Draw all rows again in the new styles."""
        super().notify_style_update()
        self._strips.clear()

    def selection_updated(self, selection: Selection | None) -> None:
        """Draw the text that the mouse has selected."""
        self.refresh()

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """Return the text that the mouse has selected, and the end of its lines."""
        lines = [self._head(), *(self._fitted.line(item).plain for item in self._rows)]
        return selection.extract("\n".join(lines)), "\n"

    def render_line(self, y: int) -> Strip:
        """Draw a visible line; the first is the head."""
        if self._fitted_width != self._line_width:  # it will be told later that its size is new
            self._fit()
        style = self.rich_style
        width = self.size.width
        place = int(self.scroll_offset.y) + y - 1
        if y == 0:
            head = Text(self._head(), self.get_component_rich_style("table--head"))
            return self._strip(head, style).adjust_cell_length(width, style)
        if place >= len(self._rows):
            empty = self._empty() if y == 1 and not self._rows else Text("")
            return self._strip(empty, style).adjust_cell_length(width, style)
        item = self._rows[place]
        strip = self._row(item, place, style).adjust_cell_length(width, style)
        if self.spec.key(item) == self._cursor:
            strip = strip.apply_style(self.get_component_rich_style("table--cursor"))
        return strip.apply_offsets(0, place + 1)

    def _empty(self) -> Text:
        if not self._typed:
            return Text(self.spec.empty, "dim")
        if self._filter.problem:
            return Text(self._filter.problem, "yellow")
        return Text(f"nothing matches {self._typed!r}", "dim")

    @property
    def _mark(self) -> str:
        return DESCENDING if self._descending else ASCENDING

    def _head(self) -> str:
        return self._fitted.head(self._column.title if self._column else "\0", self._mark)

    def _row(self, item: T, place: int, style: Style) -> Strip:
        """Draw a row. It is kept until its item changes."""
        key = self.spec.key(item)
        selected = self.text_selection.get_span(place + 1) if self.text_selection else None
        known = self._strips.get(key)
        if known is not None and known[0] == item and selected is None:
            return known[1]
        line = toned(self._fitted.line(item), stale=self.stale, no_color=self.app.no_color)
        if selected is not None:
            start, end = selected
            mark = self.screen.get_component_rich_style("screen--selection")
            line.stylize(mark, start, len(line) if end == -1 else end)
            return self._strip(line, style)
        if len(self._strips) > CACHED:
            self._strips.clear()
        strip = self._strip(line, style)
        self._strips[key] = (item, strip)
        return strip

    def _strip(self, text: Text, style: Style) -> Strip:
        return Strip(text.render(self.app.console), text.cell_len).apply_style(style)
