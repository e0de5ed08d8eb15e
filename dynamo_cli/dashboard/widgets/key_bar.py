"""The line with the most useful keys."""

from __future__ import annotations

from textual.widgets import Static

KEYS = (
    ("?", "help", "help"),
    ("/", "filter", "filter"),
    ("< >", "sort", "sort(1)"),
    ("␣", "pause", "pause"),
    ("⏎", "details", "details"),
    ("t", "theme", "next_theme"),
    ("w", "picture", "write_picture"),
    ("q", "quit", "leave"),
)


class KeyBar(Static):
    """Shows keys; a click on one has the effect of the key."""

    def on_mount(self) -> None:
        """Show the keys."""
        self.update(
            "  ".join(
                f"[@click=app.{action}][bold]{key}[/bold] [dim]{name}[/dim][/]"
                for key, name, action in KEYS
            )
        )
