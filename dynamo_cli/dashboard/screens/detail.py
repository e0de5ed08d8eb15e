"""A screen that shows one thing in full."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static


class Detail(ModalScreen[None]):
    """A text with a title. Escape closes it.

    Args:
        title: the title.
        content: the text.
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
        """Create the widgets."""
        with VerticalScroll(id="detail"):
            yield Static(self._content, id="detail-content")

    def on_mount(self) -> None:
        """Set the title, and show the newest text."""
        box = self.query_one("#detail")
        box.border_title = self._title
        box.border_subtitle = "Esc back   y copy"
        self.show(self._content)  # it may have changed since it was composed

    def show(self, content: Text) -> None:
        """Replace the text, because more is known."""
        self._content = content
        for shown in self.query("#detail-content").results(Static):
            shown.update(content)

    @property
    def copied(self) -> str:
        """The text that is copied."""
        return self._content.plain

    def action_scroll(self, by: int) -> None:
        """Scroll by lines."""
        self.query_one("#detail").scroll_relative(y=by, animate=False)
