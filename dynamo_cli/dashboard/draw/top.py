"""Draws the upper part of the overview: the picture with a strip for each worker beside it, or a
list where there is no room for a picture. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw import picture
from dynamo_cli.dashboard.draw.style import FAINT, clipped, joined, phase_text
from dynamo_cli.dashboard.draw.workers import STRIPS_WIDTH, strips
from dynamo_cli.dashboard.model import Board
from dynamo_cli.topology import Role
from dynamo_cli.watch.schema import Snapshot

GAP = 3
LEAST_HEIGHT = 16
"""Fewest lines of the whole tab with which the picture is drawn."""

BELOW_FROM_LINES = 28
"""From this height of the whole tab on, strips that have no room beside the picture are below."""

NAME = 10


def is_list(width: int, height: int) -> bool:
    """Whether there is only room for a list, with this size of the tab."""
    return width < picture.LEAST_WIDTH or height < LEAST_HEIGHT


def beside(board: Board, width: int) -> bool:
    """Whether the strips of the workers have room beside the picture."""
    return width >= picture.widths(board)[0] + GAP + STRIPS_WIDTH


def below(board: Board, width: int, height: int) -> bool:
    """Whether the strips of the workers are shown below the picture, with this size of the tab."""
    return height >= BELOW_FROM_LINES and not is_list(width, height) and not beside(board, width)


def draw(board: Board, width: int, height: int) -> Text:
    """Draw the picture, or a list, for a tab of this size."""
    if is_list(width, height):
        return Text("\n").join([clipped(line, width) for line in _list(board)])
    if not beside(board, width):
        return picture.draw(board, width)
    own = min(picture.widths(board)[1], width - GAP - STRIPS_WIDTH)
    left = picture.draw(board, own).split("\n")
    right = strips(board, width - own - GAP, len(left))
    lines = []
    for drawn, strip in zip_longest(left, right, fillvalue=Text("")):
        line = Text.assemble(drawn, " " * (own - drawn.cell_len + GAP), strip)
        lines.append(line)
    return Text("\n").join(lines)


def _list(board: Board) -> Iterator[Text]:
    """Draw a line for each kind of process, the most important first."""
    for title, role in (
        ("workers", Role.WORKER),
        ("HTTP", Role.FRONTEND),
        ("router", Role.ROUTER),
        ("processors", Role.PROCESSOR),
        ("prefill", Role.PREFILL_WORKER),
        ("host cache", Role.HOST_CACHE),
    ):
        processes = [one for one in board.processes if one.role == role]
        if processes:
            figures = _figures(role, board.snapshot) if board.snapshot else ""
            yield joined([Text(title.ljust(NAME), FAINT), phase_text(processes), figures])


def _figures(role: Role, snapshot: Snapshot) -> str:
    traffic, workers, prefill = snapshot.traffic, snapshot.workers, snapshot.prefill
    match role:
        case Role.WORKER:
            running = sum(worker.num_running_reqs for worker in workers)
            waiting = sum(worker.num_waiting_reqs for worker in workers)
            return f"run {running}+{waiting}"
        case Role.FRONTEND:
            return f"{traffic.in_flight} in flight"
        case Role.ROUTER:
            return snapshot.router.policy if snapshot.router else ""
        case Role.PROCESSOR:
            return f"{show.number(round(traffic.output_tokens_per_s))} tok/s"
        case Role.PREFILL_WORKER:
            return f"{prefill.depth_jobs} wait" if prefill else ""
    return ""
