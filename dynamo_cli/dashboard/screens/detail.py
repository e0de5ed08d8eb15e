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
        self._content = content
        # Kept, not looked up: a screen can be closed before it is complete.
        self._shown = Static(content, id="detail-content")
        self._box = VerticalScroll(self._shown, id="detail")
        self._box.border_title = title
        self._box.border_subtitle = "Esc back   y copy"

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield self._box

    def show(self, content: Text) -> None:
        """Replace the text, because more is known."""
        self._content = content
        self._shown.update(content)

    @property
    def copied(self) -> str:
        """The text that is copied."""
        return self._content.plain

    def action_scroll(self, by: int) -> None:
        """Scroll by lines."""
        self._box.scroll_relative(y=by, animate=False)
