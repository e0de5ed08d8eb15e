"""A question before something ends."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static


class Confirm(ModalScreen[bool]):
    """A question to be answered with yes or no.

    Args:
        question: the question, which says what yes does.
    """

    BINDINGS = [
        Binding("y,enter", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        with Vertical(id="confirm"):
            yield Static(self._question)
            yield Static(
                "[@click=screen.answer(True)][bold]y[/bold] finish them and stop[/]    "
                "[@click=screen.answer(False)][bold]n[/bold] go on[/]",
                id="confirm-answers",
            )

    def action_answer(self, yes: bool) -> None:
        """Close the screen with this answer."""
        if self.is_current:  # a second key may come before it is closed
            self.dismiss(yes)
