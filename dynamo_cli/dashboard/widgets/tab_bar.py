"""The line with the names of the tabs."""

from __future__ import annotations

from textual.widget import Widget

TABS = ("overview", "workers", "routing", "cache", "prefill", "logs", "requests", "replay")
FULL_WIDTH = sum(len(name) + 4 for name in TABS) + len(TABS)
SHORT_WIDTH = sum(len(name) + 3 for name in TABS)
"""Widths from which on all names have room, with more and with less space between them."""


class TabBar(Widget):
    """Shows which tab is open; a click opens another."""

    _current = TABS[0]

    def show(self, current: str) -> None:
        """Mark the open tab."""
        self._current = current
        self.refresh()

    def render(self) -> str:
        """Draw the names that have room."""
        width = self.size.width
        names = []
        for number, name in enumerate(TABS, 1):
            current = name == self._current
            named = current or width >= SHORT_WIDTH
            label = f"{number} {name.capitalize()}" if named else str(number)
            label = f" {label} " if width >= FULL_WIDTH else label
            style = "reverse bold" if current else "dim"
            names.append(f"[{style}][@click=app.open_tab('{name}')]{label}[/][/]")
        return " ".join(names)
