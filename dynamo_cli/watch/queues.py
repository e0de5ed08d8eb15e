"""Counts the requests that wait at each box of the picture. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dynamo_cli.watch.load_schema import QueuesView
from dynamo_cli.watch.schema import PrefillView, ProcessorView, RouterView, WorkerView


class PendingAnswers(NamedTuple):
    """What the frontend waits for.

    Attributes:
        open: answers of every kind.
        submitted: answers to clients' requests to the model.
        unstarted: of these, requests without a first token.
        oldest_unstarted_s: age of the oldest of these, seconds.
    """

    open: int = 0
    submitted: int = 0
    unstarted: int = 0
    oldest_unstarted_s: float = 0.0


def queues(
    calls: PendingAnswers,
    processors: Sequence[ProcessorView],
    router: RouterView | None,
    prefill: PrefillView | None,
    workers: Sequence[WorkerView],
) -> QueuesView:
    """Return the queues of all boxes.

    Reports are up to a quarter of a second old, so the counts are too.
    """
    taken = sum(one.requests for one in processors)
    asking = sum(one.queries for one in processors)
    return QueuesView(
        frontend=max(calls.submitted - taken, 0),
        processors=sum(one.preparing for one in processors),
        router=max(router.waiting_requests, asking) if router is not None else 0,
        prefill_queue=prefill.depth_jobs if prefill is not None else 0,
        workers=sum(one.num_waiting_reqs for one in workers),
        unstarted=calls.unstarted,
        oldest_unstarted_s=calls.oldest_unstarted_s,
    )
