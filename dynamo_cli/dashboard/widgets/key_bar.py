"""The most useful keys, on one line."""

from __future__ import annotations

from textual.widgets import Static

KEYS = (
    ("?", "help", "help"),
    ("/", "filter", "filter"),
    ("s", "sort", "sort"),
    ("␣", "pause", "pause"),
    ("⏎", "details", "details"),
    ("t", "theme", "next_theme"),
    ("w", "picture", "write_picture"),
    ("q", "quit", "leave"),
)


class KeyBar(Static):
    """A click does what the key does."""

    def on_mount(self) -> None:
        self.update(
            "  ".join(
                f"[@click=app.{action}][bold]{key}[/bold] [dim]{name}[/dim][/]"
                for key, name, action in KEYS
            )
        )
