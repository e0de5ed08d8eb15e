"""Where requests wait, fail and spend their time, as parts of ``/dynamo/snapshot``."""

from __future__ import annotations

import msgspec

QUEUE_FULL, WRITE_FAILED = "queue_full", "write_failed"
"""Why requests are not recorded: the thread that writes is too far behind, or cannot write."""


class QueuesView(msgspec.Struct, frozen=True):
    """Number of requests that wait at each box of the picture.

    Attributes:
        frontend: sent to a processor that has not taken them yet, or without a processor.
        processors: taken, but template and tokenizer are not done.
        router: no worker has been chosen.
        prefill_queue: no prefill worker has taken them.
        workers: in an engine that has not begun them.
        unstarted: requests without a first token, wherever they are.
        oldest_unstarted_s: age of the oldest of these, seconds; 0 if there is none.
    """

    frontend: int = 0
    processors: int = 0
    router: int = 0
    prefill_queue: int = 0
    workers: int = 0
    unstarted: int = 0
    oldest_unstarted_s: float = 0.0

    @property
    def boxes(self) -> dict[str, int]:
        """The queues by the name of their box, in the order of a request's way."""
        return {
            "frontend": self.frontend,
            "processors": self.processors,
            "router": self.router,
            "prefill queue": self.prefill_queue,
            "workers": self.workers,
        }

    @property
    def waiting(self) -> int:
        """Number of requests that wait at any box."""
        return sum(self.boxes.values())


class StageView(msgspec.Struct, frozen=True):
    """How long a stage took, of the requests that ended in the last 60 s.

    Attributes:
        stage: its name; `STAGES` in `stages.py` has all.
        requests: number of requests that passed it.
        p50_s, p95_s: percentiles, seconds.
    """

    stage: str
    requests: int
    p50_s: float
    p95_s: float


class ErrorsView(msgspec.Struct, frozen=True):
    """What went wrong with the requests for the model that ended in the last 60 s.

    Attributes:
        requests: number of requests that ended.
        failed: requests that the server failed: status 500 and above, or an error in a stream.
        refused: requests that it refused because of its load or state: status 429 and 503.
        mistaken: requests that the client has to correct: other statuses from 400 on.
        kinds: number of all of these by kind of error, the most frequent first.
        left: requests whose client closed the connection before the end of the answer.
        failed_kinds, refused_kinds: number of these by kind of error, the most frequent first.
    """

    requests: int = 0
    failed: int = 0
    refused: int = 0
    mistaken: int = 0
    kinds: dict[str, int] = {}
    left: int = 0
    failed_kinds: dict[str, int] = {}
    refused_kinds: dict[str, int] = {}

    @property
    def of_server(self) -> int:
        """Number of requests that ended with an error that the server has to do with."""
        return self.failed + self.refused

    @property
    def all(self) -> int:
        """Number of requests that ended with an error."""
        return self.failed + self.refused + self.mistaken


class HostView(msgspec.Struct, frozen=True):
    """What the machine has left; None if it is not known.

    Attributes:
        memory_*_bytes: main memory that this server may use, and what is left of it.
        record_*_bytes: size of the file system of ``--record``, and what is free there.
        unrecorded: requests that could not be recorded, by reason, since the start.
    """

    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    record_total_bytes: int | None = None
    record_free_bytes: int | None = None
    unrecorded: dict[str, int] = {}
