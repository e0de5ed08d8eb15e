"""Threads for work that would block the event loop; short work does not wait for long work."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

from dynamo_cli.engines.vllm.front.trace import current_trace

LONG_BYTES = 1 << 18
"""Size of a body above which a request counts as long. A tokenizer takes a quarter of a second for
this size."""


class _Job(NamedTuple):
    work: Callable[[], Any]
    future: Future[Any]


class Lane:
    """One thread that takes a job of each owner in turn (round-robin).

    So a job waits for one job of each other owner, however many jobs these have.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[_Job]] = {}
        self._pool = ThreadPoolExecutor(1, self._name)

    def submit(self, owner: Hashable, work: Callable[[], Any]) -> Future[Any]:
        """Run `work` when it is the turn of `owner`, unless the future is cancelled before that."""
        job = _Job(work, Future())
        with self._lock:
            self._waiting.setdefault(owner, deque()).append(job)
        self._pool.submit(self._do_next)
        return job.future

    def renew(self) -> None:
        """Go on with a new thread, because the present one hangs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = ThreadPoolExecutor(1, self._name)
        with self._lock:
            waiting = sum(map(len, self._waiting.values()))
        for _ in range(waiting):
            self._pool.submit(self._do_next)

    def _do_next(self) -> None:
        if (job := self._take()) is None or not job.future.set_running_or_notify_cancel():
            return
        try:
            job.future.set_result(job.work())
        except BaseException as error:  # noqa: BLE001 - whoever waits for the result gets it
            job.future.set_exception(error)

    def _take(self) -> _Job | None:
        with self._lock:
            if not self._waiting:
                return None
            owner = next(iter(self._waiting))
            jobs = self._waiting.pop(owner)
            job = jobs.popleft()
            if jobs:
                self._waiting[owner] = jobs  # behind all other owners
            return job


class Lanes(Executor):
    """Replaces vLLM's own threads: one lane for long requests and one for all others.

    `RequestTrace.body_bytes` of the submitting task says whether its request is long.

    Attributes:
        answers: a lane for answers that take long to make; nothing is prepared there.
    """

    COUNT = 2

    def __init__(self) -> None:
        self._medium, self._long = Lane("prepare"), Lane("prepare-long")
        self.answers = Lane("answer")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the function in the lane of the request that submits it."""
        trace = current_trace.get(None)
        is_long = trace is not None and trace.body_bytes > LONG_BYTES
        lane = self._long if is_long else self._medium
        return lane.submit(trace, partial(fn, *args, **kwargs))

    def renew(self) -> None:
        """Go on with new threads, because one of the present ones hangs."""
        self._medium.renew()
        self._long.renew()
