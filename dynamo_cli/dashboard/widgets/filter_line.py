"""The line in which a filter is typed."""

from __future__ import annotations

from textual.widgets import Input

HINT = "words, worker:3, ttft>1s, -word leaves out"
OPEN = "open"


class FilterLine(Input):
    """Is hidden until it is opened."""

    def __init__(self) -> None:
        super().__init__(placeholder=HINT, id="filter", compact=True)

    @property
    def is_open(self) -> bool:
        """Whether it is shown."""
        return self.has_class(OPEN)

    def open(self) -> None:
        """Show it and type into it."""
        self.add_class(OPEN)
        self.focus()

    def close(self) -> None:
        """Empty and hide it. This changes no table."""
        self.remove_class(OPEN)
        with self.prevent(Input.Changed):
            self.value = ""
