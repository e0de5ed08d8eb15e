"""Says once when an alarm is raised and once when it is over, for the log. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo_cli.watch.schema import AlarmView, Snapshot

AWAY_S = 30.0
"""An alarm that comes back within this time is still the same episode, seconds. Load comes in
waves, and an alarm at its threshold would fill the log."""


@dataclass(slots=True)
class _Episode:
    began_s: float
    seen_s: float


class Episodes:
    """The alarms that are raised now, or were so shortly before."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], _Episode] = {}

    def news(self, snapshot: Snapshot) -> list[str]:
        """Look at a snapshot; return a line for each alarm that is new in it or is over."""
        now_s, found = snapshot.uptime_s, []
        for alarm in snapshot.alarms:
            if (known := self._known.get(_key(alarm))) is not None:
                known.seen_s = now_s
                continue
            self._known[_key(alarm)] = _Episode(now_s, now_s)
            found.append(f"alarm ({_name(*_key(alarm))}): {alarm.text}; {alarm.advice}")
        for key, episode in list(self._known.items()):
            if now_s - episode.seen_s >= AWAY_S:
                del self._known[key]
                lasted_s = episode.seen_s - episode.began_s
                found.append(f"alarm is over ({_name(*key)}): it lasted {lasted_s:.0f} s")
        return found


def _key(alarm: AlarmView) -> tuple[str, str]:
    return alarm.kind, alarm.gpu


def _name(kind: str, gpu: str) -> str:
    return f"{kind} {gpu}" if gpu else kind
