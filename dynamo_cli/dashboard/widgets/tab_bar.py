"""The line with the names of the tabs."""

from __future__ import annotations

from textual.widgets import Static

TABS = ("overview", "workers", "routing", "cache", "prefill", "logs")


class TabBar(Static):
    """Shows which tab is open; a click opens another."""

    def show(self, current: str) -> None:
        """Mark the open tab."""
        names = []
        for number, name in enumerate(TABS, 1):
            label = f" {number} {name.capitalize()} "
            style = "reverse bold" if name == current else "dim"
            names.append(f"[{style}][@click=app.open_tab('{name}')]{label}[/][/]")
        self.update(" ".join(names))
