"""Tables as data: their columns, the columns that fit a width, and their lines. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rich.text import Text

from dynamo_cli.dashboard.draw.style import clipped
from dynamo_cli.dashboard.filters import Field

T = TypeVar("T")
GAP = " "


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column.

    Attributes:
        title: its title.
        width: its width in cells; the least width of a column that stretches.
        cell: returns its content for an item.
        order: returns the sort key of an item; None if it cannot be sorted.
        right: whether it is aligned to the right, as numbers are.
        from_width: the column is left out of tables that are narrower than this.
        stretch: whether it takes a share of the free width, up to `most` cells.
        wide: draws its content for an item in a number of cells, instead of `cell`.
    """

    title: str
    width: int
    cell: Callable[[T], Text | str]
    order: Callable[[T], Any] | None = None
    right: bool = False
    from_width: int = 0
    stretch: bool = False
    most: int = 1000
    wide: Callable[[T, int], Text] | None = None


@dataclass(frozen=True, slots=True)
class Spec(Generic[T]):
    """A kind of table.

    Attributes:
        columns: its columns.
        key: returns what identifies a row while its content changes.
        words: returns the text that a filter searches.
        copied: returns the text that is copied for a row.
        tail: whether new rows come at the end, and the table follows them.
        empty: text of a table without rows.
        fields: fields on which a filter can have conditions, by name.
    """

    columns: Sequence[Column[T]]
    key: Callable[[T], str]
    words: Callable[[T], str]
    copied: Callable[[T], str]
    tail: bool
    empty: str
    fields: Mapping[str, Field[T]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fitted(Generic[T]):
    """The columns that fit a width, each with its own width."""

    columns: tuple[tuple[Column[T], int], ...]

    def head(self, sorted_by: str = "", mark: str = "") -> str:
        """Return the line of titles, with a mark at the column that sorts."""
        titles = []
        for column, width in self.columns:
            title = column.title + (mark if column.title == sorted_by else "")
            title = title[:width]
            titles.append(title.rjust(width) if column.right else title.ljust(width))
        return GAP.join(titles)

    def at(self, x: int) -> Column[T] | None:
        """Return the column at this cell of a line."""
        left = 0
        for column, width in self.columns:
            if left <= x < left + width:
                return column
            left += width + len(GAP)
        return None

    def line(self, item: T) -> Text:
        """Return the line of an item."""
        return Text(GAP).join([_cell(column, item, width) for column, width in self.columns])


def fit(columns: Sequence[Column[T]], width: int) -> Fitted[T]:
    """Choose the columns of a table of this width."""
    chosen = [column for column in columns if width >= column.from_width]
    left = width - sum(column.width for column in chosen) - len(GAP) * (len(chosen) - 1)
    stretching = [column for column in chosen if column.stretch]
    share = max(left, 0) // len(stretching) if stretching else 0
    return Fitted(
        tuple(
            (one, min(one.width + share, one.most) if one.stretch else one.width) for one in chosen
        )
    )


def _cell(column: Column[T], item: T, width: int) -> Text:
    content = column.cell(item) if column.wide is None else column.wide(item, width)
    return _aligned(content, width, column.right)


def _aligned(cell: Text | str, width: int, right: bool) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell
    text = clipped(text, width)
    space = " " * (width - text.cell_len)
    return Text.assemble(space, text) if right else Text.assemble(text, space)
