"""Queries that no worker can take yet. Pure."""

from __future__ import annotations

from typing import NamedTuple

from dynamo_cli.messages.routing import RouteQuery


class Waiting(NamedTuple):
    """A query that waits for a worker.

    Queries are answered in the order of these fields: first requests that move, then those with the
    smaller priority, then the older ones.
    """

    is_new: bool
    priority: int
    number: int
    since_ns: int
    processor: int
    query: RouteQuery
