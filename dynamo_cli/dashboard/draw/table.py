"""Tables as data: columns, what of them fits, and their lines. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rich.text import Text

from dynamo_cli.dashboard.draw.style import clipped

T = TypeVar("T")
GAP = " "


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column.

    Attributes:
        width: in cells; of a stretching one the least.
        cell: what it shows of an item.
        order: what it is sorted by; None: not at all.
        right: numbers are at the right edge.
        from_width: tables that are narrower go without it.
        stretch: it takes what is left, up to `most` cells.
    """

    title: str
    width: int
    cell: Callable[[T], Text | str]
    order: Callable[[T], Any] | None = None
    right: bool = False
    from_width: int = 0
    stretch: bool = False
    most: int = 1000


@dataclass(frozen=True, slots=True)
class Spec(Generic[T]):
    """A kind of table.

    Attributes:
        key: by which a row is known while its content changes.
        words: what a filter looks into.
        copied: what is copied of a row.
        tail: new rows come at the end, and the table follows them.
        empty: what it says when there is nothing.
    """

    columns: Sequence[Column[T]]
    key: Callable[[T], str]
    words: Callable[[T], str]
    copied: Callable[[T], str]
    tail: bool
    empty: str


@dataclass(frozen=True, slots=True)
class Fitted(Generic[T]):
    """The columns that fit a width, each with its own."""

    columns: tuple[tuple[Column[T], int], ...]

    def head(self, sorted_by: str = "", mark: str = "") -> str:
        """The titles; the one that sorts has a mark."""
        titles = []
        for column, width in self.columns:
            title = column.title + (mark if column.title == sorted_by else "")
            title = title[:width]
            titles.append(title.rjust(width) if column.right else title.ljust(width))
        return GAP.join(titles)

    def line(self, item: T) -> Text:
        """An item."""
        return Text(GAP).join(
            [_aligned(column.cell(item), width, column.right) for column, width in self.columns]
        )


def fit(columns: Sequence[Column[T]], width: int) -> Fitted[T]:
    """The columns that a table of this width has."""
    chosen = [column for column in columns if width >= column.from_width]
    left = width - sum(column.width for column in chosen) - len(GAP) * (len(chosen) - 1)
    stretching = [column for column in chosen if column.stretch]
    share = max(left, 0) // len(stretching) if stretching else 0
    return Fitted(
        tuple(
            (one, min(one.width + share, one.most) if one.stretch else one.width) for one in chosen
        )
    )


def _aligned(cell: Text | str, width: int, right: bool) -> Text:
    text = Text(cell) if isinstance(cell, str) else cell
    text = clipped(text, width)
    space = " " * (width - text.cell_len)
    return Text.assemble(space, text) if right else Text.assemble(text, space)
