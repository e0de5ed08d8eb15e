"""Requests that ended with an error lately, by who has to do something about it. Pure."""

from __future__ import annotations

from collections import Counter

from dynamo_cli.errors import Asleep, Draining, NotReady, Overloaded, TooManyRequests
from dynamo_cli.watch.load_schema import ErrorsView
from dynamo_cli.watch.timelines import CLIENT_CLOSED
from dynamo_cli.watch.window import WindowSum

WINDOW_S = 60
REFUSALS = (429, 503)
"""Statuses of a server that takes no (more) requests now."""

MISTAKES_FROM, FAILURES_FROM = 400, 500
REFUSED_KINDS = tuple(
    error.code for error in (NotReady, Asleep, Draining, Overloaded, TooManyRequests)
)
"""Kinds of errors with these statuses that are about the server, and not about the request."""

SLOW_READER = "slow_reader"
"""Kind of an answer that was ended because its client did not read it."""

NO_KIND = "other"
FAILED, REFUSED, MISTAKEN = "failed", "refused", "mistaken"


class FailureLog:
    """Counts the requests of the last `WINDOW_S` seconds, and their errors by class and kind."""

    def __init__(self) -> None:
        self._requests = WindowSum(WINDOW_S)
        self._left = WindowSum(WINDOW_S)
        self._errors: dict[tuple[str, str], WindowSum] = {}

    def ended(self, status: int, error: str, now_ns: int) -> None:
        """Note the end of a request; `error` is the kind of its failure, empty if it has none."""
        self._requests.add(1, now_ns)
        if status == CLIENT_CLOSED:
            self._left.add(1, now_ns)
        if found := class_of(status, error):
            seen = self._errors.setdefault((found, error or NO_KIND), WindowSum(WINDOW_S))
            seen.add(1, now_ns)

    def view(self, now_ns: int) -> ErrorsView:
        """Return what is known of the last minute."""
        by_class = {name: Counter[str]() for name in (FAILED, REFUSED, MISTAKEN)}
        kinds = Counter[str]()
        for (name, kind), seen in self._errors.items():
            if count := int(seen.total(now_ns)):
                by_class[name][kind] = count
                kinds[kind] += count
        return ErrorsView(
            requests=int(self._requests.total(now_ns)),
            failed=by_class[FAILED].total(),
            refused=by_class[REFUSED].total(),
            mistaken=by_class[MISTAKEN].total(),
            kinds=dict(kinds.most_common()),
            left=int(self._left.total(now_ns)),
            failed_kinds=dict(by_class[FAILED].most_common()),
            refused_kinds=dict(by_class[REFUSED].most_common()),
        )


def class_of(status: int, error: str) -> str:
    """Return ``failed``, ``refused`` or ``mistaken``; empty if the request did not fail.

    A stream whose answer has begun has status 200 whatever happens to it later.
    """
    if status == CLIENT_CLOSED or (status < MISTAKES_FROM and not error):
        return ""
    if status in REFUSALS and error in REFUSED_KINDS:
        return REFUSED
    if MISTAKES_FROM <= status < FAILURES_FROM or error == SLOW_READER:
        return MISTAKEN
    return FAILED
