"""What holds of every server once it rests; docs/invariants.md says why, and who asserts it.

A server rests when nobody asks it anything. Then it holds nothing of any request, in no process.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

REST_S = 15.0
"""Within which all processes have told that they hold nothing: they report every quarter second."""

RING = "ring"
KINDS = ("socket", "pipe", "anon_inode:[eventfd]", RING)
"""Of these descriptors a process has a fixed number per peer, and one per client."""

Problems = list[str]


class Process(NamedTuple):
    """What one process has.

    Attributes:
        descriptors: open ones, by what they are.
    """

    pid: int
    rss_bytes: int
    descriptors: Counter[str]


class Census(NamedTuple):
    """The processes of a server at one moment, by name."""

    processes: dict[str, Process]

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self.processes.items()}


def census(snapshot: Any) -> Census:
    """Look at every process of this snapshot that still runs."""
    found = {}
    for process in snapshot["processes"]:
        pid = process["pid"]
        try:
            found[process["name"]] = Process(pid, rss_bytes(pid), descriptors(pid))
        except OSError:
            continue  # it ended meanwhile
    return Census(found)


def rss_bytes(pid: int) -> int:
    """What it has written to: what it shares with files comes and goes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def descriptors(pid: int) -> Counter[str]:
    """Open descriptors by kind: sockets, pipes, rings, files by name."""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # closed meanwhile
        kinds[_kind(target)] += 1
    return kinds


def _kind(target: str) -> str:
    if target.startswith("/memfd:"):
        return RING
    return target.partition(":[")[0] if target.startswith(("socket:", "pipe:")) else target


# -- the invariants --------------------------------------------------------------------------


def requests_are_accounted_for(snapshot: Any) -> Problems:
    """Every request that came has ended, once: finished, failed or aborted."""
    traffic = snapshot["traffic"]
    problems = _zero("traffic", traffic, "in_flight") + _zero("snapshot", snapshot, "calls")
    if traffic["received"] != traffic["requests"]:
        problems.append(f"{traffic['received']} requests came and {traffic['requests']} ended")
    return problems


def processors_hold_nothing(snapshot: Any) -> Problems:
    """No request, engine request, load, question to the router or call to a worker."""
    names = ("requests", "preparing", "engine_requests", "placed", "queries", "calls")
    return [
        problem
        for one in snapshot["processors"]
        for problem in _zero(f"processor {one['processor']}", one, *names)
    ]


def the_books_of_the_router_are_empty(snapshot: Any) -> Problems:
    """No entry, promise or waiting request; no worker has load."""
    if (router := snapshot["router"]) is None:
        return []
    problems = _zero("router", router, "entries", "promised_blocks", "waiting_requests")
    for one in router["workers"]:
        problems += _zero(f"book of worker {one['worker']}", one, "active_requests")
        problems += _zero(f"book of worker {one['worker']}", one, "prefill_blocks")
    return problems


def engines_are_idle(snapshot: Any) -> Problems:
    """Nothing runs or waits, and no block of the cache is in use."""
    names = ("num_running_reqs", "num_waiting_reqs", "kept_requests", "kv_cache_usage")
    return [
        problem
        for one in snapshot["workers"]
        for problem in _zero(f"worker {one['worker']}", one, *names)
    ]


def nothing_is_prefilled_elsewhere(snapshot: Any) -> Problems:
    """The queue is empty, no prompt is away, no block is kept for a decode worker."""
    if (prefill := snapshot["prefill"]) is None:
        return []
    names = ("depth_jobs", "depth_tokens", "in_flight_jobs", "in_flight_tokens", "away", "kept")
    return _zero("prefill", prefill, *names)


def nobody_reads_the_host_cache(snapshot: Any) -> Problems:
    """No block is pinned: all that was found has been read, and no lease is left."""
    if (cache := snapshot["host_cache"]) is None:
        return []
    return _zero("host cache", cache, "pinned", "invalid")


def links_are_read(snapshot: Any) -> Problems:
    """What the frontend sent has arrived."""
    return [f"{left} bytes wait for {peer}" for peer, left in snapshot["links"].items() if left]


def nothing_is_counted_twice(snapshot: Any) -> Problems:
    """Counters of different processes that count the same agree; lives that were lost excepted."""
    problems, traffic = [], snapshot["traffic"]
    if traffic["cached_tokens"] > traffic["prompt_tokens"]:
        problems.append("more prompt tokens were cached than there were")
    if any(process["restarts"] for process in snapshot["processes"]):
        return problems  # a life that ended has not told its last numbers
    if (prefill := snapshot["prefill"]) is not None:
        problems += _jobs(prefill)
    return problems


def what_was_answered_was_generated(snapshot: Any) -> Problems:
    """Of a server that lost no worker and retired none: the numbers of one that left are gone."""
    if any(process["restarts"] for process in snapshot["processes"]):
        return []
    answered = snapshot["traffic"]["output_tokens"]
    made = sum(one["output_tokens"] for one in snapshot["workers"])
    return [f"{answered} tokens answered, but {made} generated"] if answered > made else []


def _jobs(prefill: Any) -> Problems:
    problems = []
    ended, refused = sum(prefill["ended"].values()), sum(prefill["refused"].values())
    if prefill["taken"] != ended:
        problems.append(f"the queue took {prefill['taken']} jobs, and {ended} ended")
    sent = sum(n for where, n in prefill["placements"].items() if where.startswith("remote:"))
    if sent != prefill["taken"] + refused:
        problems.append(f"{sent} prompts were sent away, {prefill['taken']} + {refused} came")
    if (back := sum(prefill["fallbacks"].values())) > sent:
        problems.append(f"{back} prompts came back of {sent}")
    return problems


def descriptors_are_closed(before: Census, now: Census) -> Problems:
    """A process that has lived on has the descriptors that it had, when its peers are as many."""
    if before.pids.keys() != now.pids.keys():
        return []
    return [
        f"{name} has {count} more of {kind}"
        for name, process in now.processes.items()
        if process.pid == (old := before.processes[name]).pid
        for kind, count in (process.descriptors - old.descriptors).items()
        if kind in KINDS
    ]


AT_REST: tuple[Callable[[Any], Problems], ...] = (
    requests_are_accounted_for,
    processors_hold_nothing,
    the_books_of_the_router_are_empty,
    engines_are_idle,
    nothing_is_prefilled_elsewhere,
    nobody_reads_the_host_cache,
    links_are_read,
    nothing_is_counted_twice,
    what_was_answered_was_generated,
)


def broken(snapshot: Any, before: Census | None, *, retired: bool = False) -> Problems:
    """The invariants that do not hold, in words.

    Args:
        retired: a worker has left the tree.
    """
    problems = [
        problem
        for holds in AT_REST
        if not (retired and holds is what_was_answered_was_generated)
        for problem in holds(snapshot)
    ]
    if before is not None and not problems:
        problems = descriptors_are_closed(before, census(snapshot))
    return problems


def check(
    look: Callable[[], Any],
    before: Census | None,
    rest_s: float = REST_S,
    *,
    retired: bool = False,
) -> None:
    """Wait until a server rests and every invariant holds.

    Args:
        look: gives its snapshot; None when it does not serve.
        before: its processes when it had just begun to serve; None: nobody looked.
        retired: a worker has left the tree since.

    Raises:
        AssertionError: one does not hold in the end.
    """
    deadline = time.monotonic() + rest_s
    while (snapshot := look()) is not None and (
        problems := broken(snapshot, before, retired=retired)
    ):
        assert time.monotonic() < deadline, "broken at rest: " + "; ".join(problems)
        time.sleep(0.1)


def _zero(whose: str, view: Any, *names: str) -> Problems:
    return [f"{whose}: {name} is {view[name]}" for name in names if view[name]]
