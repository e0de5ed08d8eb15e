"""The rules for alarms about load, errors and resources. Pure.

Each rule has a threshold, how long it must be exceeded, and a remedy; docs/operations.md has the
reasons in a table. Rules look at one snapshot a second, and at a few figures of the past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from dynamo_cli.errors import Asleep, NotReady
from dynamo_cli.topology import Role
from dynamo_cli.units import GIB, MIB
from dynamo_cli.watch import remedies
from dynamo_cli.watch.load_schema import ErrorsView
from dynamo_cli.watch.past import SPAN_S, Past
from dynamo_cli.watch.schema import ProcessView, Snapshot

AlarmText = tuple[str, str]
"""The text of an alarm, and its advice."""

WAITING, WAITED_S = 4, 2.0
"""Fewer waiting requests, or a shorter wait, is what a burst does."""

GROWN_TO = 8
"""A queue that only grows is worth an alarm from this length on."""

KV_FULL = 0.95
PREEMPTIONS = 5
"""In `SPAN_S`. A few preemptions happen when several answers turn out to be long."""

ERRORS, ERROR_SHARE = 5, 0.01
"""Least number of failed requests in a minute, and least share of all of that minute."""

NO_TOKEN_S = 30.0
"""Half of the 60 s after which many clients and proxies give up."""

FULL_CORE = 0.9
"""From here on the queue before a process grows much faster than its load."""

LEAST_MEMORY_BYTES, LEAST_SHARE = 2 * GIB, 0.05
LEAST_DISK_BYTES = GIB
"""About a million recorded requests."""

_SINGLE = (Role.FRONTEND, Role.PROCESSOR, Role.ROUTER, Role.PREFILL_QUEUE, Role.HOST_CACHE)
"""Processes that work in one thread. Engines are busy whenever they have requests."""


class AlarmRule(NamedTuple):
    """A rule.

    Attributes:
        kind: the kind of its alarm.
        hold_s: how long it must hold before the alarm is raised, seconds.
        find: returns text and advice if it holds now.
    """

    kind: str
    hold_s: float
    find: Callable[[Snapshot, Past], AlarmText | None]


def _saturated(snapshot: Snapshot, past: Past) -> AlarmText | None:
    queues = snapshot.queues
    if queues.waiting < WAITING or queues.oldest_unstarted_s < WAITED_S:
        return None
    where = ", ".join(f"{name} {count}" for name, count in queues.boxes.items() if count)
    growth = past.growth_per_s()
    grows = f", {growth:.1f} more each second" if growth >= 0.1 else ""
    text = (
        f"{queues.waiting} requests wait ({where}), the oldest for "
        f"{queues.oldest_unstarted_s:.0f} s{grows}"
    )
    return text, remedies.of_queues(snapshot)


def _growing(snapshot: Snapshot, past: Past) -> AlarmText | None:
    first, middle, last = past.thirds()
    if not past.whole or not (first and middle and last) or last[-1] < GROWN_TO:
        return None
    if max(first) >= min(middle) or max(middle) >= min(last):
        return None
    text = f"the number of waiting requests has only grown for {SPAN_S:.0f} s, "
    text += f"from {first[0]} to {last[-1]}"
    return text, remedies.of_queues(snapshot)


def _kv_full(snapshot: Snapshot, past: Past) -> AlarmText | None:
    full = [
        one.worker
        for one in snapshot.workers
        if one.kv_cache_usage >= KV_FULL and one.num_waiting_reqs
    ]
    preempts = past.preempted >= PREEMPTIONS
    if not full and not preempts:
        return None
    parts, advice = [], ""
    if full:
        names = f"worker{'s' if len(full) > 1 else ''} {', '.join(map(str, full))}"
        parts.append(f"the KV cache of {names} is full while requests wait")
    if preempts:
        parts.append(f"{past.preempted} requests were preempted in {SPAN_S:.0f} s")
        advice = "requests that are preempted are computed again: lower --max-num-seqs, "
    return "; ".join(parts), (
        f"{advice}give engines more memory (--gpu-memory-utilization, --kv-cache-memory-bytes), "
        "or add workers."
    )


def _share(kinds: Mapping[str, int], errors: ErrorsView, name: str) -> str | None:
    """Say how many requests of the last minute failed or were refused."""
    count = sum(kinds.values())
    if count < ERRORS or count < ERROR_SHARE * errors.requests:
        return None
    told = ", ".join(f"{kind} {number}" for kind, number in kinds.items())
    return f"{count} of {errors.requests} requests of the last minute {name} ({told})"


def _failing(snapshot: Snapshot, past: Past) -> AlarmText | None:
    errors = snapshot.recent_errors
    if (text := _share(errors.failed_kinds, errors, "failed")) is None:
        return None
    helps = remedies.of_failures(errors.failed_kinds)
    return text, f"{helps} GET /dynamo/timeline has the requests with their errors."


def _refusing(snapshot: Snapshot, past: Past) -> AlarmText | None:
    errors = snapshot.recent_errors
    kinds = dict(errors.refused_kinds)
    if snapshot.serving:  # requests that came before that are no reason to do anything now
        kinds.pop(Asleep.code, None)
        early = kinds.pop(NotReady.code, 0)
        if late := min(early, past.not_ready_while_serving):
            kinds[NotReady.code] = late
    if (text := _share(kinds, errors, "were refused")) is None:
        return None
    return text, remedies.of_refusals(snapshot, kinds)


def _no_token(snapshot: Snapshot, past: Past) -> AlarmText | None:
    queues = snapshot.queues
    if queues.oldest_unstarted_s < NO_TOKEN_S:
        return None
    text = (
        f"{queues.unstarted} requests have no first token yet, the oldest for "
        f"{queues.oldest_unstarted_s:.0f} s"
    )
    if 2 * queues.waiting >= queues.unstarted:
        return text, remedies.of_queues(snapshot)
    return text, (
        "the dashboard shows in which stage the time goes; --first-token-timeout moves requests "
        "away from a worker that does not begin them."
    )


def _busy(snapshot: Snapshot, past: Past) -> AlarmText | None:
    busy = [one for one in _single(snapshot) if (one.cpu_cores or 0.0) >= FULL_CORE]
    if not busy:
        return None
    names = ", ".join(one.name for one in busy)
    text = f"{names} {'use a whole core each' if len(busy) > 1 else 'uses a whole core'}"
    advice = []
    if any(one.role == Role.PROCESSOR for one in busy):
        advice.append("add --processors, if cores are free.")
    if any(one.role != Role.PROCESSOR for one in busy):
        advice.append(
            "one process does this for the whole server: send shorter or fewer requests, or put a "
            "second server beside it."
        )
    return text, remedies.joined(advice)


def _starved(snapshot: Snapshot, past: Past) -> AlarmText | None:
    starved = [
        one
        for one in _single(snapshot)
        if (one.cpu_demand or 0.0) >= FULL_CORE and (one.cpu_cores or 0.0) < FULL_CORE / 2
    ]
    if not starved:
        return None
    names = ", ".join(f"{one.name} ({one.cpu_cores or 0.0:.2f} of a core)" for one in starved)
    return f"all cores are busy, and these processes mostly wait for one: {names}", (
        "end other programs, or let engines use fewer cores (--engine-threads)."
    )


def _single(snapshot: Snapshot) -> list[ProcessView]:
    return [one for one in snapshot.processes if one.role in _SINGLE]


def _memory(snapshot: Snapshot, past: Past) -> AlarmText | None:
    total, left = snapshot.host.memory_total_bytes, snapshot.host.memory_available_bytes
    if total is None or left is None or left >= min(LEAST_MEMORY_BYTES, LEAST_SHARE * total):
        return None
    return f"{left // MIB} MiB of {total // GIB} GiB main memory are left", (
        "at 0 the kernel kills a process: stop other programs, or use a smaller --host-cache or "
        "fewer --processors."
    )


def _record(snapshot: Snapshot, past: Past) -> AlarmText | None:
    host = snapshot.host
    if lost := past.unrecorded:
        told = ", ".join(f"{why} {count}" for why, count in host.unrecorded.items())
        text = f"{lost} requests were not recorded in the last {SPAN_S:.0f} s (in all: {told})"
        return text, remedies.of_record(host.unrecorded)
    total, free = host.record_total_bytes, host.record_free_bytes
    if total is None or free is None or free >= min(LEAST_DISK_BYTES, LEAST_SHARE * total):
        return None
    return f"the disk of the record has {free // MIB} MiB left", remedies.FULL_DISK


def _log(snapshot: Snapshot, past: Past) -> AlarmText | None:
    if not past.unwritten:
        return None
    text = f"{past.unwritten} lines of the log could not be written in the last {SPAN_S:.0f} s"
    return text, (
        "free room on the disk of the log (--log-file); if it goes to a pipe, its reader is slow."
    )


RULES = (
    AlarmRule("saturated", 5.0, _saturated),
    AlarmRule("growing queue", 3.0, _growing),
    AlarmRule("no first token", 3.0, _no_token),
    AlarmRule("kv full", 10.0, _kv_full),
    AlarmRule("errors", 2.0, _failing),
    AlarmRule("refusing", 2.0, _refusing),
    AlarmRule("busy process", 10.0, _busy),
    AlarmRule("busy cores", 10.0, _starved),
    AlarmRule("host memory", 10.0, _memory),
    AlarmRule("record", 2.0, _record),
    AlarmRule("log", 2.0, _log),
)
