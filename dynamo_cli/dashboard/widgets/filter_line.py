"""The line in which a filter is typed."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Input

HINT = "words, worker:3, ttft>1s, -word leaves out"
OPEN = "open"


class FilterLine(Input):
    """Is hidden until it is opened."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "app.keep_filter", "keep the filter", show=False)
    ]

    def __init__(self) -> None:
        super().__init__(placeholder=HINT, id="filter", compact=True, select_on_focus=False)

    @property
    def is_open(self) -> bool:
        """Whether it is shown."""
        return self.has_class(OPEN)

    def open(self) -> None:
        """Show it, so that it can have the focus; what is typed replaces the filter in it."""
        self.add_class(OPEN)
        self.action_select_all()

    def write(self, character: str) -> None:
        """Write a character at the cursor, or over what is selected."""
        if self.selection.is_empty:
            self.insert_text_at_cursor(character)
        else:
            self.replace(character, *self.selection)

    def close(self) -> None:
        """Empty and hide it. This changes no table."""
        self.remove_class(OPEN)
        with self.prevent(Input.Changed):
            self.value = ""
