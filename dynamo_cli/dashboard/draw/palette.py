"""The colours behind the names that the other modules use, on dark and on light backgrounds.

Those that Textual has by default are hard to read on some of them: yellow, the colour of warnings,
has a contrast of 2 to 1 on a light background. `tests/dashboard/test_palette.py` measures it.
"""

from __future__ import annotations

from rich.terminal_theme import TerminalTheme

_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)

ON_DARK = TerminalTheme(
    (12, 12, 12),
    (217, 217, 217),
    [
        (26, 26, 26),  # black
        (255, 122, 140),  # red
        (152, 224, 36),  # green
        (253, 151, 31),  # yellow
        (157, 101, 255),  # blue
        (255, 121, 198),  # magenta
        (88, 209, 235),  # cyan
        _WHITE,
    ],
)

ON_LIGHT = TerminalTheme(
    (247, 247, 247),
    _BLACK,
    [
        _BLACK,
        (168, 35, 28),  # red
        (47, 109, 20),  # green
        (125, 80, 0),  # yellow
        (50, 92, 192),  # blue
        (122, 62, 157),  # magenta
        (0, 95, 135),  # cyan
        (247, 247, 247),  # white
    ],
)
