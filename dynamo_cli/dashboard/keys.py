"""The keys of the dashboard: which action each has."""

from __future__ import annotations

from textual.binding import Binding, BindingType

from dynamo_cli.dashboard.widgets.tab_bar import TABS

BINDINGS: list[BindingType] = [
    *(Binding(str(n), f"open_tab('{name}')", name) for n, name in enumerate(TABS, 1)),
    Binding("question_mark", "help", "help"),
    Binding("slash", "filter", "filter"),
    Binding("s", "sort_reset", "order of arrival"),
    Binding("greater_than_sign", "sort(1)", "sort by the next column"),
    Binding("less_than_sign", "sort(-1)", "sort by the column before"),
    Binding("S", "reverse", "sort the other way"),
    Binding("space", "pause", "pause"),
    Binding("f", "follow", "follow"),
    Binding("l", "log_level", "log level"),
    Binding("r", "role_or_replay", "log role, or replay"),
    Binding("z", "zoom", "zoom"),
    Binding("y", "copy", "copy"),
    Binding("a", "alarms", "alarms"),
    Binding("t", "next_theme", "theme"),
    Binding("w", "write_picture", "picture"),
    Binding("escape", "show_all", "show all rows"),
    Binding("q", "leave", "quit"),
    Binding("ctrl+q", "leave", "quit", show=False),
    Binding("ctrl+c", "interrupt", "stop", show=False, priority=True),
]
