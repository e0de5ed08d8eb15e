"""Alarms: what works worse than it should, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dynamo_cli.config import KV_POLICY
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch import remedies
from dynamo_cli.watch.gpus import GpuReport, Xids
from dynamo_cli.watch.host_cache_schema import HostCacheView
from dynamo_cli.watch.moves import NOT_MOVED_MEMORY_S
from dynamo_cli.watch.rules import AlarmText
from dynamo_cli.watch.schema import AlarmView, GpuView, PrefillView
from dynamo_cli.watch.window import WindowSum

RESTART_MEMORY_S = 600
"""How long a restart raises an alarm."""

REFUSED_MEMORY_S = 60
"""How long refused messages raise an alarm."""

SKEW_PATIENCE_S = 5
"""How long load must be skewed before that raises an alarm."""

SKEW_LEAST_REQUESTS = 5
"""Load is skewed if a worker has this many requests more than the mean of the others, and at least
twice that mean."""

SKEW_ADVICE = {
    KV_POLICY: (
        "they share a prefix or a session that it has cached; a lower --kv-overlap-weight or "
        "--router least-loaded spreads them."
    ),
    "least-loaded": (
        "the others could take none for a while, or it is slower than they are: see which worker "
        "differs on the overview, and whether one was started again."
    ),
}
"""What helps against skewed load, by policy."""

SKEW_ADVICE_BLIND = (
    "it is slower than the others or has longer requests, and this policy does not look at load: "
    "--router least-loaded or kv does."
)

RESTART_ADVICE = "the log says how it ended, and what became of its requests."
KILLED_ADVICE = " If nobody sent SIGKILL, the kernel did, because memory ran out."

XID_MEMORY_S = 600
"""How long an error of a GPU raises an alarm."""

XIDS_OF_ENDINGS = (45,)
"""Reported by the driver when a process is killed. The process table shows that already."""

XIDS_OF_PROGRAMS = (13, 31, 43, 68, 69, 109)
"""Invalid accesses and instructions: more often caused by a program than by a GPU."""

XIDS_OF_MEMORY = (48, 63, 64, 92, 94, 95, 140, 171, 172)
XID_FALLEN_OFF = 79

HANGING_ADVICE = (
    "nvidia-smi hangs too in this case. The kernel's log (dmesg) says why, and usually only a "
    "restart of this machine helps."
)
PROGRAM_ADVICE = (
    "programs cause this more often than GPUs: look into the engine's log. If it is always this "
    "GPU, test it with dcgmi diag -r 3."
)
FALLEN_OFF_ADVICE = (
    "it has fallen off the bus: restart this machine. If that happens again, check its power "
    "supply, its cooling and its seat in the slot."
)


class Watch:
    """Remembers what alarms need: reasons of restarts, when load became skewed, refused
    messages."""

    def __init__(self) -> None:
        self._table: Sequence[ProcessState] = ()
        self._why: dict[str, str] = {}
        self._skewed_since_ns: int | None = None
        self._active: dict[int, int] = {}
        self._policy = ""
        self._refused = 0
        self._recently_refused = WindowSum(REFUSED_MEMORY_S)

    def processes(self, table: Sequence[ProcessState]) -> None:
        """Take a new process table."""
        self._table = table
        for state in table:
            if state.phase == Phase.BACKOFF:
                self._why[state.name] = state.reason

    def router(self, stats: RouterStats, now_ns: int) -> None:
        """Take the router's statistics."""
        self._active, self._policy = stats.active_requests, stats.policy
        if not _is_skewed(list(stats.active_requests.values())):
            self._skewed_since_ns = None
        elif self._skewed_since_ns is None:
            self._skewed_since_ns = now_ns

    def refused(self, total: int, now_ns: int) -> None:
        """Take the number of messages that full links have refused since the start."""
        if total > self._refused:
            self._recently_refused.add(total - self._refused, now_ns)
        self._refused = total

    def alarms(self, now_ns: int) -> list[AlarmView]:
        """Return the current alarms about skewed load, restarts and links."""
        found = []
        if (since := self._skewed_since_ns) is not None:
            held_s = (now_ns - since) / SECOND_NS
            if held_s >= SKEW_PATIENCE_S:
                found.append(AlarmView("skew", *_skew(self._active, held_s, self._policy)))
        restarted = [
            _restart(state.name, state.restarts, self._why.get(state.name, ""), age_s)
            for state in self._table
            if state.restarts
            and (age_s := (now_ns - state.started_ns) / SECOND_NS) < RESTART_MEMORY_S
        ]
        if restarted:
            text = "; ".join(restarted)
            killed = KILLED_ADVICE if "(SIGKILL)" in text else ""
            found.append(AlarmView("restarts", text, RESTART_ADVICE + killed))
        if refused := int(self._recently_refused.total(now_ns)):
            found.append(AlarmView("refused sends", *_refusal(refused)))
        return found


def silence(workers: list[int], engines: dict[int, EngineReady]) -> AlarmView:
    """Make the alarm for workers that send no KV events."""
    names = ", ".join(map(str, workers))
    several = len(workers) > 1
    sizes = {engines[worker].block_size for worker in workers if worker in engines}
    size = f" ({max(sizes)} tokens)" if sizes else ""
    return AlarmView(
        "no events",
        f"worker{'s' if several else ''} {names} {'have' if several else 'has'} sent no KV events "
        "although requests finished there, so --router kv does not know what is cached",
        "check that prefix caching is on (no --no-enable-prefix-caching) and that prompts are "
        f"longer than a block{size}.",
    )


def old_jobs(view: PrefillView, table: Sequence[ProcessState]) -> AlarmView:
    """Make the alarm for a prefill queue whose oldest job has waited too long.

    Args:
        view: the queue.
        table: all processes.
    """
    text = f"the oldest of {view.depth_jobs} prefill jobs has waited for {view.oldest_age_s:.1f} s"
    takers = [state for state in table if state.role is Role.PREFILL_WORKER]
    if any(state.phase == Phase.READY for state in takers):
        return AlarmView("old prefill jobs", text, remedies.OF_PREFILL_QUEUE)
    advice = "no prefill worker is ready; the log says why they ended."
    return AlarmView("old prefill jobs", text, advice)


def no_router(table: Sequence[ProcessState], unrouted: int) -> AlarmView | None:
    """Make the alarm for requests that are placed without the router while it is down.

    Args:
        table: all processes.
        unrouted: number of requests that were placed so.
    """
    routers = [state for state in table if state.role is Role.ROUTER]
    if not unrouted or all(state.phase == Phase.READY for state in routers):
        return None
    return AlarmView(
        "no router",
        f"the router is down; {unrouted} requests were placed without it so far, each on the "
        "least loaded worker",
        "it restarts automatically; the log says why it ended.",
    )


def no_place(count: int) -> AlarmView:
    """Make the alarm for requests that no process could take after theirs had died or stopped.

    Args:
        count: number of these in the last `NOT_MOVED_MEMORY_S`.
    """
    some = "a request" if count == 1 else f"{count} requests"
    return AlarmView(
        "not moved",
        f"{some} failed in the last {NOT_MOVED_MEMORY_S // 60} minutes, because no other process "
        "could take over in time after a death or stop",
        "the log says why the process ended; more --workers or a longer --migration-timeout help.",
    )


def of_host_cache(view: HostCacheView | None) -> Iterator[AlarmView]:
    """Make the alarm for engines that cannot use the host cache."""
    if view is not None and view.refused:
        text = f"the host cache has refused engines, {view.refused} times so far"
        advice = "they compute what others have stored. The log says how they differ."
        yield AlarmView("host cache", text, advice)
    if view is not None and view.disk is not None and view.disk.off:
        text = f"the disk cache is not used: {view.disk.off}"
        yield AlarmView("disk cache", text, "look at the disk, then restart the server.")


def of_gpus(report: GpuReport | None, views: Sequence[GpuView], now_ns: int) -> Iterator[AlarmView]:
    """Make the alarms for GPUs with errors, and for a driver that does not answer."""
    if report is None or not views:
        return
    if silent_s := report.silent_s(now_ns):
        text = f"the NVIDIA driver has not answered for {silent_s:.0f} s"
        yield AlarmView("gpu driver", text, HANGING_ADVICE)
    elif report.problem:
        text = f"the NVIDIA driver reports no figures of the GPUs: {report.problem}"
        yield AlarmView("gpu driver", text, "run nvidia-smi, which shows whether the driver works.")
    for view in views:
        if view.problem:
            text = f"{_gpu(view)} cannot be read: {view.problem}"
            yield AlarmView("gpu lost", text, _reset(view), view.gpu)
        if view.uncorrected_ecc_errors:
            several = "s" if view.uncorrected_ecc_errors > 1 else ""
            text = (
                f"the memory of {_gpu(view)} has made {view.uncorrected_ecc_errors} error{several} "
                "that could not be corrected since its driver was loaded"
            )
            yield AlarmView("gpu memory", text, _reset(view), view.gpu)
        for error in report.xids.get(view.gpu, ()):
            if _is_alarming(error, now_ns):
                yield AlarmView("gpu error", *_xid(view, error, now_ns), view.gpu)


def _is_alarming(error: Xids, now_ns: int) -> bool:
    recent = (now_ns - error.last_ns) / SECOND_NS < XID_MEMORY_S
    return recent and error.xid not in XIDS_OF_ENDINGS


def _xid(view: GpuView, error: Xids, now_ns: int) -> AlarmText:
    times = "" if error.count == 1 else f" {error.count} times"
    age_s = (now_ns - error.last_ns) / SECOND_NS
    text = f"the driver has reported Xid {error.xid} of {_gpu(view)}{times}, {age_s:.0f} s ago"
    if error.xid in XIDS_OF_PROGRAMS:
        return text, PROGRAM_ADVICE
    if error.xid == XID_FALLEN_OFF:
        return text, FALLEN_OFF_ADVICE
    if error.xid in XIDS_OF_MEMORY:
        return f"{text} (a memory error)", _reset(view)
    return text, f"look into the kernel's log (dmesg) and NVIDIA's list of Xids; {_reset(view)}"


def _gpu(view: GpuView) -> str:
    """Name a GPU together with the engines that run on it."""
    return f"GPU {view.gpu} ({', '.join(view.engines)})"


def _reset(view: GpuView) -> str:
    """Say how to reset a GPU, which helps most often."""
    number = view.gpu.partition(":")[0]
    return (
        f"stop all programs on it and reset it: nvidia-smi --gpu-reset -i {number}. If that does "
        "not help, or it happens again, have it replaced."
    )


def _is_skewed(active: list[int]) -> bool:
    if len(active) < 2:
        return False
    most = max(active)
    others = (sum(active) - most) / (len(active) - 1)
    return most - others >= SKEW_LEAST_REQUESTS and most >= 2 * others


def _skew(active: dict[int, int], held_s: float, policy: str) -> AlarmText:
    worker = max(active, key=active.__getitem__)
    text = (
        f"worker {worker} has {active[worker]} of {sum(active.values())} active requests, "
        f"for {held_s:.0f} s"
    )
    return text, SKEW_ADVICE.get(policy, SKEW_ADVICE_BLIND)


def _restart(name: str, count: int, why: str, age_s: float) -> str:
    times = "again" if count == 1 else f"again {count} times"
    because = f" ({why.partition(':')[0]})" if why else ""
    return f"{name} was started {times}, {age_s:.0f} s ago{because}"


def _refusal(refused: int) -> AlarmText:
    return (
        f"full links refused {refused} messages in the last minute",
        "their readers cannot keep up: see in the process table which one uses a whole core. More "
        "--processors help if it is one of them, and --max-inflight bounds the load.",
    )
