"""The help: all keys, and the meaning of the signs."""

from __future__ import annotations

from rich.text import Text

from dynamo_cli.dashboard.draw.style import ACCENT, FAINT, STRONG
from dynamo_cli.dashboard.screens.detail import Detail

KEYS = (
    ("1 … 8", "open a tab; Tab goes to its next table"),
    ("/", "only rows with all these words, until Esc ..."),
    ("", "... and with worker:3, ttft>1s; without -word"),
    ("< >  S", "sort by the column before or after; the other way round"),
    ("s", "back to the order of arrival. A click on a title sorts too"),
    ("Space", "pause what is shown; the past is still kept"),
    ("Enter  Esc", "details of the row; back"),
    ("↑ ↓ PgUp PgDn", "move, with Home and End; at the end it follows"),
    ("f", "follow the end of a list, or stop"),
    ("l  r", "logs: from which level on; only one role"),
    ("r", "replay: start it on the last hour, or stop it"),
    ("a", "all alarms in full, with what to do"),
    ("z", "curves over 1 minute, 5 minutes, 1 hour"),
    ("y", "copy the row, the details, or marked text"),
    ("t", "next theme"),
    ("w", "write the screen to an SVG file"),
    ("Ctrl+P", "all commands by name"),
    ("q", "quit; one's own server first finishes requests"),
    ("Ctrl+C", "the same without a question"),
)
SIGNS = (
    ("● ○ ↻ ✗ ■", "ready, on its way, restarting, failed, stopped"),
    ("⚠ ◆", "an alarm with what to do, the odd worker out"),
    ("→ 1  ⇄ 1", "the worker that was chosen; after it had to leave another"),
    ("· ▁ ▄ █", "share of a prompt held by worker 0, 1, ..."),
    ("↓64/32", "cached tokens: 64 predicted, only 32 found"),
    ("12/45 ms", "median and 95th percentile: of 10 s, of stages 60 s"),
    ("14k→1k tok/s", "prompt tokens taken, output tokens given"),
)


class Help(Detail):
    """Shows the help until Escape is pressed."""

    def __init__(self) -> None:
        super().__init__("help", _text())


def _text() -> Text:
    lines = [Text("keys", f"{STRONG} {ACCENT}")]
    lines += [_line(key, what) for key, what in KEYS]
    lines += [Text(""), Text("signs", f"{STRONG} {ACCENT}")]
    lines += [_line(sign, what) for sign, what in SIGNS]
    return Text("\n").join(lines)


def _line(name: str, what: str) -> Text:
    return Text.assemble((f"{name:<16}", STRONG), (what, FAINT))
