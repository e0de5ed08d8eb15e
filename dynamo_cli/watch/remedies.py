"""What helps against alarms that can have several causes, by cause. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_cli.errors import (
    Asleep,
    Draining,
    FirstTokenTimeout,
    LinkFull,
    NotReady,
    Overloaded,
    PeerLost,
    PoisonRequest,
    TooManyRequests,
    Unavailable,
)
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.watch.load_schema import QUEUE_FULL, WRITE_FAILED
from dynamo_cli.watch.schema import Snapshot

_MORE_WORKERS = (
    "the engines cannot keep up: add workers (--workers), or set --max-inflight so that clients "
    "get 429 at once instead of waiting."
)
OF_PREFILL_QUEUE = (
    "add prefill workers (--prefill-workers), or send only long prompts to them "
    "(--conditional-disagg)."
)
_OF_QUEUES = {
    "frontend": (
        "the processors take requests too slowly: add --processors if cores are free; else set "
        "--max-inflight so that clients get 429 at once."
    ),
    "processors": (
        "templates and tokenizers take all their time: add --processors if cores are free; else "
        "set --max-inflight so that clients get 429 at once."
    ),
    "prefill queue": OF_PREFILL_QUEUE,
}

_LOG_NAMES_DEATHS = "the log says why each process ended."
_LOG_NAMES_ERRORS = "the log names each internal error."
_OF_FAILURES = {
    PeerLost.code: _LOG_NAMES_DEATHS,
    PoisonRequest.code: _LOG_NAMES_DEATHS,
    FirstTokenTimeout.code: (
        "no worker began them within --first-token-timeout: add workers, or allow more time."
    ),
    LinkFull.code: (
        "a process did not read in time what it was sent: see in the process table which one uses "
        "a whole core; --max-inflight bounds the load."
    ),
    Asleep.code: "the engines were put to sleep: POST /sleep?mode=wait lets requests finish first.",
    Draining.code: (
        "the server was shut down before their answers were complete: --drain-timeout gives them "
        "more time."
    ),
    NotReady.code: "no process could take them over: the log says why processes ended.",
    Unavailable.code: "a worker could not take them: their errors say why.",
}

FULL_DISK = "free room on the disk of the record, or record to another one (--record)."
_OF_RECORDS = {
    QUEUE_FULL: "its disk is too slow for so many requests: record to another one (--record).",
    WRITE_FAILED: f"the log says why it could not be written; {FULL_DISK}",
}

_OF_REFUSALS = {
    Asleep.code: "the engines sleep: POST /wake_up wakes them.",
    TooManyRequests.code: (
        "as many requests are in flight as --max-inflight allows: add workers, or raise it if "
        "clients would rather wait; clients should try again after the seconds that Retry-After "
        "says."
    ),
    Overloaded.code: (
        "too much is open at once, and the answers say what: for connections, raise the limit of "
        "open files (ulimit -Hn); for a processor, add --processors; for bodies, let clients send "
        "fewer large ones at once."
    ),
    Draining.code: (
        "the server is shutting down: clients should send requests to another one. Load balancers "
        "see it at GET /health."
    ),
}


def of_queues(snapshot: Snapshot) -> str:
    """Say what helps against the longest queue."""
    if not snapshot.serving:
        return of_absence(snapshot)
    boxes = snapshot.queues.boxes
    return _OF_QUEUES.get(max(boxes, key=boxes.__getitem__), _MORE_WORKERS)


def of_failures(kinds: Iterable[str]) -> str:
    """Say what helps against failed requests of these kinds."""
    return joined(_OF_FAILURES.get(kind, _LOG_NAMES_ERRORS) for kind in kinds)


def of_refusals(snapshot: Snapshot, kinds: Iterable[str]) -> str:
    """Say what helps against refusals of these kinds, which are in `REFUSED_KINDS`."""
    return joined(_OF_REFUSALS.get(kind) or of_absence(snapshot) for kind in kinds)


def of_record(reasons: Iterable[str]) -> str:
    """Say what helps when requests are not recorded for these reasons."""
    return joined(_OF_RECORDS[reason] for reason in reasons)


def of_absence(snapshot: Snapshot) -> str:
    """Say what helps when requests come while no process can take them."""
    if snapshot.serving:
        return f"for moments no process could take them: {_LOG_NAMES_DEATHS}"
    wait = "clients should wait until GET /health answers with 200."
    if _has_lost_processes(snapshot):
        return joined([f"the server is not ready any more: {wait}", _LOG_NAMES_DEATHS])
    return f"requests came before the server was ready: {wait}"


def _has_lost_processes(snapshot: Snapshot) -> bool:
    """Whether a process has ended since the start."""
    gone = (Phase.BACKOFF, Phase.FAILED)
    return any(one.restarts or one.phase in gone for one in snapshot.processes)


def joined(remedies: Iterable[str]) -> str:
    """Return the given remedies, of which there is at least one, as sentences; each once."""
    first, *others = dict.fromkeys(remedies)
    return " ".join([first, *(f"{one[0].upper()}{one[1:]}" for one in others)])
