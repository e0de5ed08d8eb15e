"""One thing in full."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static


class Detail(ModalScreen[None]):
    """A text under a title; Escape goes back.

    Args:
        title: what it is.
        content: all of it.
    """

    BINDINGS = [
        Binding("escape,q,enter", "dismiss", "back"),
        Binding("y", "app.copy", "copy", show=False),
        Binding("up,k", "scroll(-1)", "up", show=False),
        Binding("down,j", "scroll(1)", "down", show=False),
    ]

    def __init__(self, title: str, content: Text) -> None:
        super().__init__()
        self._title = title
        self._content = content

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="detail"):
            yield Static(self._content, id="detail-content")

    def on_mount(self) -> None:
        box = self.query_one("#detail")
        box.border_title = self._title
        box.border_subtitle = "Esc back   y copy"
        self.show(self._content)  # it may have grown since it was composed

    def show(self, content: Text) -> None:
        """Something more is known."""
        self._content = content
        for shown in self.query("#detail-content").results(Static):
            shown.update(content)

    @property
    def copied(self) -> str:
        """What is copied of it."""
        return self._content.plain

    def action_scroll(self, by: int) -> None:
        self.query_one("#detail").scroll_relative(y=by, animate=False)
