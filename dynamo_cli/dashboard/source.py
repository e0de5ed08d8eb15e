"""What the dashboard asks a server for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from dynamo_cli.dashboard import replaying
from dynamo_cli.dashboard.client import DashboardClient
from dynamo_cli.dashboard.events import Event, RequestTimelines
from dynamo_cli.watch.schema import Snapshot
from dynamo_cli.watch.timelines import TimelineView

Follow = Callable[[], AsyncIterator[Event]]
KnownRequests = Callable[[int], Awaitable[RequestTimelines]]


@dataclass(frozen=True, slots=True)
class Source:
    """Functions that ask a server; None for what is not known, as in tests.

    Attributes:
        follow: generates the events of the server.
        timelines: returns the timelines of the requests with an id.
        requests: returns the requests that run, and those that ended after one with a number.
        replay: replays the last hour, and generates the experiment at each stage.
    """

    follow: Follow | None = None
    timelines: Callable[[str], Awaitable[list[TimelineView]]] | None = None
    requests: KnownRequests | None = None
    replay: Callable[[Snapshot], AsyncIterator[Event]] | None = None

    @classmethod
    def of(cls, client: DashboardClient, follow: Follow) -> Self:
        """Return the functions of a client."""
        return cls(
            follow,
            client.timelines,
            client.requests,
            lambda snapshot: replaying.replay(client, snapshot),
        )


NO_SOURCE = Source()
