"""Decides from the snapshots of the last seconds which rules hold for long enough. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

import msgspec

from dynamo_cli.watch.oddities import HOLD_S, Oddity, oddities
from dynamo_cli.watch.past import SPAN_S, Look, Past
from dynamo_cli.watch.rules import RULES
from dynamo_cli.watch.schema import AlarmView, Snapshot

LOOK_S = 0.9
"""Least time between two looks. The frontend makes one a second; those who ask for snapshots more
often get the alarms of the last look."""

MOST_GAP_S = 5.0
"""After a longer pause nothing is known about what lasted how long."""

CLEAR_S = 5.0
"""An alarm stays for so long after its rule held last, so that it does not flicker."""


class Lasting:
    """Notes for how long something has held.

    Args:
        hold_s: how long it must hold before it counts.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._since_s: dict[Hashable, float] = {}
        self._held_s: dict[Hashable, float] = {}
        self._counts: set[Hashable] = set()

    def see(self, what: Hashable, now_s: float) -> None:
        """Note that it holds now."""
        since_s = self._since_s.setdefault(what, now_s)
        self._held_s[what] = now_s
        if now_s - since_s >= self._hold_s:
            self._counts.add(what)

    def counting(self, now_s: float) -> set[Hashable]:
        """Return what has held for long enough, and has not been away for `CLEAR_S`.

        What has not counted yet starts again when it is away for one look.
        """
        for what, held_s in list(self._held_s.items()):
            if held_s == now_s:
                continue
            if what not in self._counts or now_s - held_s >= CLEAR_S:
                del self._held_s[what], self._since_s[what]
                self._counts.discard(what)
        return set(self._counts)


class Judge:
    """Looks at snapshots once a second, and knows which alarms and remarks are due."""

    def __init__(self) -> None:
        self._looks: deque[Look] = deque()
        self._forget()

    def _forget(self) -> None:
        self._looks.clear()
        self._lasting = {rule.kind: Lasting(rule.hold_s) for rule in RULES}
        self._texts: dict[str, AlarmView] = {}
        self._alarms: list[AlarmView] = []
        self._odd_lasting = Lasting(HOLD_S)
        self._oddities: dict[Hashable, Oddity] = {}
        self._odd: list[str] = []

    def judged(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with these alarms added to its own, and with the remarks."""
        now_s = snapshot.uptime_s
        last_s = self._looks[-1].at_s if self._looks else None
        if last_s is None or not 0 <= now_s - last_s < LOOK_S:
            if last_s is not None and not 0 <= now_s - last_s <= MOST_GAP_S:
                self._forget()
            self._look(snapshot)
        alarms = [*snapshot.alarms, *self._alarms]
        return msgspec.structs.replace(snapshot, alarms=alarms, odd=self._odd)

    def _look(self, snapshot: Snapshot) -> None:
        now_s = snapshot.uptime_s
        self._looks.append(Look.of(snapshot))
        while self._looks[0].at_s < now_s - SPAN_S:
            self._looks.popleft()
        self._alarms = self._judge(snapshot, Past(list(self._looks)))
        self._odd = self._remarks(snapshot)

    def _judge(self, snapshot: Snapshot, past: Past) -> list[AlarmView]:
        now_s, due = snapshot.uptime_s, []
        for rule in RULES:
            lasting = self._lasting[rule.kind]
            if (text := rule.find(snapshot, past)) is not None:
                lasting.see(rule.kind, now_s)
                self._texts[rule.kind] = AlarmView(rule.kind, *text)
            if lasting.counting(now_s):
                due.append(self._texts[rule.kind])
        return due

    def _remarks(self, snapshot: Snapshot) -> list[str]:
        now_s, found = snapshot.uptime_s, {one.key: one for one in oddities(snapshot)}
        for key in found:
            self._odd_lasting.see(key, now_s)
        due = self._odd_lasting.counting(now_s)
        known = self._oddities | found
        self._oddities = {key: one for key, one in known.items() if key in due or key in found}
        lasting = sorted((known[key] for key in due), key=lambda one: -one.weight)
        return [one.text for one in lasting]
