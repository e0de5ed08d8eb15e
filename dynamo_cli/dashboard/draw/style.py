"""Colours and glyphs. No colour is the only sign of anything: a glyph or a word says the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.style import Style
from rich.text import Span, Text

from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.watch.schema import ProcessView

GOOD, WARN, BAD = "green", "yellow", "bold red"
FAINT, STRONG, ACCENT = "dim", "bold", "cyan"

GLYPHS = {
    Phase.READY: "●",
    Phase.FAILED: "✗",
    Phase.BACKOFF: "↻",
    Phase.STOPPED: "■",
    Phase.DRAINING: "◐",
}
BUSY_GLYPH = "○"
MOVED_GLYPH = "⇄"
"""Marks moves: the worker to which a request moved, and each move in a timeline."""

LEVELS = {"DEBUG": FAINT, "INFO": "", "WARNING": WARN, "ERROR": BAD, "CRITICAL": BAD}

BAR, BESIDE_BAR = 20, 34
"""Cells of a bar where there is room, and of the name and two figures beside it."""


def glyph(phase: str) -> str:
    """Return the glyph of a phase, one cell wide."""
    return GLYPHS.get(Phase(phase), BUSY_GLYPH)


def phase_style(phase: str) -> str:
    """Return the colour of a phase."""
    if phase == Phase.READY:
        return GOOD
    return BAD if phase in (Phase.FAILED, Phase.BACKOFF) else WARN


def phase_mark(phase: str) -> Text:
    """Draw ``● ready``."""
    return Text(f"{glyph(phase)} {phase}", phase_style(phase))


def phase_text(processes: Iterable[ProcessView]) -> Text:
    """Draw ``● ready``, or ``○ 1/2 ready`` for several processes. A process that is not ready, if
    there is one, gives glyph and colour."""
    known = list(processes)
    ready = sum(process.phase == Phase.READY for process in known)
    worst = next((one for one in known if one.phase != Phase.READY), known[0])
    words = worst.phase if len(known) == 1 else f"{ready}/{len(known)} ready"
    return Text(f"{glyph(worst.phase)} {words}", phase_style(worst.phase))


def joined(parts: Iterable[Text | str], gap: str = "  ") -> Text:
    """Join the parts that are not empty into one line."""
    return Text(gap).join([Text(part) if isinstance(part, str) else part for part in parts if part])


def toned(text: Text, *, stale: bool, no_color: bool) -> Text:
    """Return a text without its colours: faint if it is out of date, else with its other styles.

    Without colours a terminal would show dark ones as a grey that nobody can read.
    """
    if stale:
        return Text(text.plain, FAINT, no_wrap=text.no_wrap)
    if no_color:
        text = text.copy()
        text.style = _without_color(text.style)
        text.spans = [Span(one.start, one.end, _without_color(one.style)) for one in text.spans]
    return text


def _without_color(style: str | Style) -> Style:
    return (Style.parse(style) if isinstance(style, str) else style).without_color


def clipped(text: Text, width: int) -> Text:
    """Cut a text to a width; an ellipsis marks the cut."""
    text = text.copy()
    text.truncate(max(width, 0), overflow="ellipsis")
    return text


def bar_cells(width: int) -> int:
    """Return the length of a bar that leaves its name and figures whole in so narrow a tab."""
    return max(min(BAR, width - BESIDE_BAR), 0)


def fitting(width: int, *forms: Sequence[Text | str]) -> Text:
    """Join the parts of the first form that fits into a width, so that no figure is cut.

    Args:
        width: available cells.
        forms: the same in ever fewer words, the most important part first. Of the last one, parts
            are left out at its end until it fits.
    """
    for form in forms:
        for gap in ("  ", " "):
            if (line := joined(form, gap)).cell_len <= width:
                return line
    kept = [part for part in forms[-1] if part]
    while len(kept) > 1 and joined(kept, " ").cell_len > width:
        kept.pop()
    return clipped(joined(kept, " "), width)


def section(title: str) -> list[Text]:
    """Draw the title of a part of a longer text, below an empty line."""
    return [Text(""), Text(title, f"{STRONG} {ACCENT}")]


def named(name: str, value: str | Text, width: int = 10) -> Text:
    """Draw a value after its name; the name takes `width` cells."""
    return Text.assemble((name.ljust(width), FAINT), value)
