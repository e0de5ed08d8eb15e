"""What is counted of another node: its relay, its heartbeats, its log lines. Pure."""

from __future__ import annotations

from dynamo_cli.messages.cluster import Beat, NodeState, RelayStats

MOST_BEATS = 100
"""Heartbeats whose answers are awaited; older ones are forgotten."""


class NodeCounts:
    """The counts of one node since the start.

    Lines of its log have numbers. So the head knows how many were lost because the relays were not
    connected.
    """

    def __init__(self) -> None:
        self._joins = self._cuts = 0
        self._lost_lines = self._last_line = self._early_lines = 0
        self._before = self._relay = RelayStats()
        self._beats = 0
        self._sent_s: dict[int, float] = {}
        self._beat_s: float | None = None

    def beat(self, now_s: float) -> Beat:
        """The next heartbeat to send."""
        self._beats += 1
        self._sent_s[self._beats] = now_s
        self._sent_s.pop(self._beats - MOST_BEATS, None)
        return Beat(self._beats)

    @property
    def awaits_beat(self) -> bool:
        """Whether a heartbeat over this connection has not come back yet."""
        return bool(self._sent_s)

    def answered(self, beat: Beat, now_s: float) -> None:
        """A heartbeat has come back."""
        if (sent_s := self._sent_s.pop(beat.number, None)) is not None:
            self._beat_s = now_s - sent_s

    def joined(self) -> None:
        """The relays have connected; what was sent over an earlier connection is lost."""
        self._joins += 1
        self._sent_s.clear()

    def cut(self) -> None:
        """The relays have lost frames or their connection."""
        self._cuts += 1

    def line(self, number: int, *, resetting: bool) -> None:
        """A line of the node's log has come.

        Args:
            number: its number in the life of the outpost.
            resetting: whether it is not known yet which life that is.
        """
        if resetting:
            self._early_lines += 1
            return
        self._lost_lines += max(number - self._last_line - 1, 0)
        self._last_line = number

    def line_dropped(self) -> None:
        """A line was dropped because its process counts as ended."""
        self._lost_lines += 1

    def rolled(self, lines: int, *, anew: bool) -> None:
        """The outpost has said how many lines there were.

        Args:
            lines: their number in the life of the outpost.
            anew: whether it was started again since it was heard last.
        """
        known = (0 if anew else self._last_line) + self._early_lines
        self._lost_lines += max(lines - known, 0)
        self._last_line, self._early_lines = lines, 0

    def relay(self, stats: RelayStats) -> None:
        """The head's end of the relay has reported."""
        self._relay = stats

    def relay_ended(self) -> None:
        """The head's end of the relay has ended; the next one counts from 0."""
        self._before, self._relay = self._before + self._relay, RelayStats()

    def state(self, name: str, *, up: bool, silent_s: float) -> NodeState:
        """The counts, for people.

        Args:
            name: of the node.
            up: whether its outpost answers.
            silent_s: time since it was heard, seconds.
        """
        return NodeState(
            name,
            up,
            silent_s,
            self._beat_s,
            self._before + self._relay,
            reconnects=max(self._joins - 1, 0),
            resyncs=self._cuts,
            lost_log_lines=self._lost_lines,
        )
