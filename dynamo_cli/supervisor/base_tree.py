"""The tree of a run: starts, links, watches, restarts, drains and ends the children."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator, Sequence

from dynamo_cli.config import ChildConfig
from dynamo_cli.errors import ChildFailed, DynamoError, InternalError, ResourceError
from dynamo_cli.host import oserrors
from dynamo_cli.messages.flows import ToSupervisor
from dynamo_cli.messages.lifecycle import (
    AdaptersChanged,
    Drained,
    Fatal,
    Forked,
    Listening,
    Phase,
    PhaseChange,
    PlacementChanged,
    Pong,
    Probe,
    ProbeResult,
    ProcessTable,
    Released,
    Rescued,
    SetPhase,
    StillRunning,
)
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.background import Background
from dynamo_cli.supervisor.child import Child, Start
from dynamo_cli.supervisor.death_log import DeathLog
from dynamo_cli.supervisor.ending import STOP_TIMEOUT_S, Ending
from dynamo_cli.supervisor.failed_start import FailedStart
from dynamo_cli.supervisor.links import Links
from dynamo_cli.supervisor.listening import ListeningSockets
from dynamo_cli.supervisor.local_child import LocalChild
from dynamo_cli.supervisor.log_fanout import LogFanout
from dynamo_cli.supervisor.logs import OutputLine
from dynamo_cli.supervisor.not_started import NotStarted
from dynamo_cli.supervisor.orphans import Orphans
from dynamo_cli.supervisor.remembered import remembered
from dynamo_cli.supervisor.retirement import Retirements
from dynamo_cli.supervisor.revival import NO_ZYGOTE, WAITS, Restarts, next_step, was_killed
from dynamo_cli.supervisor.verdict import Verdict, describe_exit, failure_of, judge, start_hint
from dynamo_cli.supervisor.view import View
from dynamo_cli.supervisor.watching import Watching
from dynamo_cli.topology import FRONTEND, ROLES, ZYGOTE, ProcessId, Role


class Tree:
    """One run of the process tree. `tree.Supervisor` can also change the number of its workers.

    Args:
        config: the whole plan.
        view: shows people what happens.
    """

    def __init__(self, config: ServeConfig, view: View) -> None:
        self._config = config
        self._view = view
        self._children: dict[ProcessId, Child] = {}
        self._restarts: dict[ProcessId, Restarts] = {}
        self._links = Links()
        self._log_fanout = LogFanout(view, lambda: self._children.get(FRONTEND))
        self._retirements = Retirements(config.drain_timeout_s, STOP_TIMEOUT_S)
        self._listening = ListeningSockets()
        self._has_served = False
        self._not_started = NotStarted()
        self._orphans = Orphans(self._alive_here)
        self._deaths = DeathLog(self._log_fanout.notice, asyncio.get_running_loop().call_later)
        self._watching = Watching(config.worker_timeout_s, self._alive)
        self._ending = Ending(self._log_fanout.notice)
        self._background = Background(self._on_bug)

    async def run(self) -> int:
        """Serve until a signal or a failure.

        Returns:
            the exit code: 0 after a signal and an orderly end, 130 after a forced one.

        Raises:
            DynamoError: it cannot start, or cannot go on serving. All children have ended.
        """
        loop = asyncio.get_running_loop()
        self._background.watch(loop)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._ending.on_signal, number)
        with self._log_fanout.captured_loggers():
            self._orphans.adopt(loop)
            failure = await self._until_the_end()
        if failure is not None:
            raise failure
        return 130 if self._ending.forced.is_set() else 0

    async def _until_the_end(self) -> DynamoError | None:
        """Start everything and end everything; returns the failure that ended it, if any."""
        try:
            self._start_missing(forked=False)
            self._background.keep(self._watching.run)
            failure = await self._ending.asked()
            self._listening.close()
            self._view.ending()
            if failure is None and self._has_served:
                await self._drain()
        finally:
            self._background.cancel()
            self._deaths.flush()
            await self._ending.stop(lambda: list(self._alive()))
        return failure

    async def _drain(self) -> None:
        if (frontend := self._children[FRONTEND]).alive:
            await self._ending.drain(frontend, self._config.drain_timeout_s, self._alive)

    # -- starting --------------------------------------------------------------------------

    def _start_missing(self, *, forked: bool) -> None:
        """Start what does not run: processes that need the zygote if `forked`, else all others."""
        if self._ending.begun:
            return
        for process in self._config.tree():
            child = self._children.get(process)
            missing = child is None or (not child.alive and child.phase is not Phase.FAILED)
            if missing and self._needs_zygote(process) is forked:
                self._start(process)
        self._publish()

    def _start(self, process: ProcessId) -> None:
        start = Start(
            process,
            self._config_of(process),
            self._config.engine.log_level,
            self._config.device_of(process),
            tuple(device.name for device in self._config.devices_of(process)),
            self._listening.sockets if process == FRONTEND else (),
        )
        self._restarts.setdefault(process, Restarts(self._config.restart))
        staying = self._retirements.staying(self._alive(), process)
        child: Child | None = None
        try:
            child = self._make(start)
            self._links.join(child, staying)
            self._begin(child)
        except OSError as error:
            if child is not None:
                self._links.ended(child, staying, "it could not be started")
                child.discard()
            self._cannot_start(start, error)
            return
        self._children[process] = child
        if process == FRONTEND:
            self._log_fanout.on_new_frontend()

    def _config_of(self, process: ProcessId) -> ChildConfig:
        return self._config.config_of(process)

    def _make(self, start: Start) -> Child:
        """Make the handle of a child that is to be started."""
        return LocalChild(start, self)

    def _begin(self, child: Child) -> None:
        """Start a child."""
        assert isinstance(child, LocalChild)
        if self._is_to_fork(child.process):
            child.fork_from(self._children[ZYGOTE], adopted=self._orphans.adopted)
            forked = self._config.forked(child.process)
            child.move_to(Phase.IMPORTING if forked else Phase.STARTING)
        else:
            child.spawn()

    def _cannot_start(self, start: Start, error: OSError) -> None:
        """Handle that the system lacks descriptors, processes or memory for a process.

        Before the server is ready for the first time this ends the run. Later the start is tried
        again, as after a death during the start.
        """
        process, why = start.process, f"it cannot be started: {oserrors.reason(error)}"
        if not self._has_served:
            self._ending.give_up(ResourceError(f"{process.name}: {why}. {start_hint(error)}"))
            return
        node = self._config.node_of(process)
        failed = FailedStart(start, self, node.name if node is not None else "")
        _, then = self._restart_later(self._children.setdefault(process, failed), why)
        self._log_fanout.notice("ERROR", f"{process.name}: {why}; {then}")

    def _alive(self) -> Iterator[Child]:
        return (child for child in self._children.values() if child.alive)

    def _alive_here(self) -> Iterator[LocalChild]:
        return (child for child in self._alive() if isinstance(child, LocalChild))

    # -- what children report ---------------------------------------------------------------

    def on_report(self, child: Child, message: ToSupervisor, descriptors: Sequence[int]) -> None:
        """Act on a message of a child."""
        match message:
            case PhaseChange(phase, detail):
                self._on_phase(child, phase, detail)
            case Fatal(error, text):
                child.failure = (error, text)
            case ProbeResult(worker, error):
                if (probed := self._children.get(ProcessId(Role.WORKER, worker))) is not None:
                    self._on_probe(probed, error)
            case AdaptersChanged() | PlacementChanged():
                self._config = remembered(self._config, message)
            case Released(worker):
                self._retirements.released(child.process, ProcessId(Role.WORKER, worker))
            case Pong():
                self._watching.answered(child)
            case StillRunning() | Drained():
                self._ending.on_drain_report(message)
            case Listening():
                self._listening.keep(descriptors)
            case Rescued():
                self._deaths.rescued(child.process, message)
            case Forked(pid):
                child.forked(pid)
                self._publish()

    def _on_phase(self, child: Child, phase: Phase, detail: str) -> None:
        if child.process in self._retirements:
            return  # a worker that retires must not become ready any more
        child.move_to(phase, detail)
        if phase is Phase.READY:
            child.control.send(SetPhase(phase))
        if child.process == ZYGOTE and phase is Phase.READY:
            self._start_missing(forked=True)
        if child.process.role is Role.WORKER and phase is Phase.PROBING:
            self._probe(child)
        if child.process.role in (Role.FRONTEND, Role.PROCESSOR) and phase is Phase.READY:
            for worker in self._alive():
                if worker.phase is Phase.PROBING:
                    self._probe(worker)
        self._publish()

    def _probe(self, worker: Child) -> None:
        """Have the frontend get one token of the worker, once it and a processor are ready."""
        if self._can_probe():
            self._children[FRONTEND].control.send(Probe(worker.process.index))

    def _can_probe(self) -> bool:
        ready = {child.process.role for child in self._alive() if child.phase is Phase.READY}
        return {Role.FRONTEND, Role.PROCESSOR} <= ready

    def _on_probe(self, worker: Child, error: str) -> None:
        if worker.phase is not Phase.PROBING:
            return
        if error:
            worker.failure = (ChildFailed.__name__, f"its probe failed: {error}")
            worker.kill()
            return
        worker.move_to(Phase.READY)
        worker.control.send(SetPhase(Phase.READY))
        self._publish()

    def on_log(self, child: Child, line: OutputLine) -> None:
        """Show a line of a child."""
        self._log_fanout.line(child, line)

    # -- how children end ------------------------------------------------------------------

    def on_exit(self, child: Child, exit_code: int | None) -> None:
        """Act on the exit of a child: end the run, restart the child, or forget it."""
        how = describe_exit(exit_code)
        self._links.ended(child, self._alive(), child.stalled or how)
        retired = child.process in self._retirements
        self._retirements.ended(child.process)
        self._deaths.ended(child.process)
        if self._ending.stopping:
            child.move_to(Phase.STOPPED)
        elif self._ending.begun:
            child.move_to(Phase.STOPPED, how)
            if child.process == FRONTEND:
                self._ending.drained.set()  # no other process can report that it has drained
            if self._has_served or child.failure is None:
                self._deaths.died(child, exit_code)
        elif retired:
            self._retired(child)
            self._log_fanout.notice("INFO", f"{child.process.name} has ended ({how})")
        elif self._ends_start(child):
            self._ending.give_up(failure_of(child.process.name, child.failure, how))
            if child.failure is None:
                self._deaths.died(child, exit_code)
        elif not child.pid and child.failure is None:
            child.move_to(Phase.BACKOFF, WAITS)  # it never ran: the zygote died before the fork
            self._background.start(self._restart(child.process, 0.0))
        else:
            killed = was_killed(exit_code) and child.failure is None
            why = child.failure[1] if child.failure is not None else how
            step = self._restart_later(child, why, child.ready_s, killed=killed)
            self._deaths.died(child, exit_code, self._alive(), *step)
        self._publish()

    def _ends_start(self, _child: Child) -> bool:
        """Whether the run ends because this child has ended: not once it has served."""
        return not self._has_served

    def _restart_later(
        self, child: Child, how: str, ready_s: float | None = None, *, killed: bool = False
    ) -> tuple[str, str]:
        """Schedule the restart of a child, or give it up; return level and text for the log."""
        delay_s = self._restarts[child.process].next_delay_s(ready_s, killed=killed)
        start = self._start_of(child.process)
        step = next_step(how, delay_s, self._config.restart.limit, start)
        child.move_to(step.phase, step.reason)
        if step.delay_s is not None:
            self._background.start(self._restart(child.process, step.delay_s))
        if child.process != ZYGOTE:
            return step.level, step.then
        for other in self._children.values() if step.phase is Phase.FAILED else ():
            if other.phase is Phase.BACKOFF and self._needs_zygote(other.process):
                other.move_to(Phase.FAILED, NO_ZYGOTE)
        return step.level, f"the others go on; {step.then}"

    async def _restart(self, process: ProcessId, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        child = self._children.get(process)
        if self._ending.begun or child is None or child.alive or child.phase is Phase.FAILED:
            return  # the number of workers has been changed meanwhile, or the zygote given up
        if self._start_of(process) is Phase.READY:
            self._start(process)
        else:
            child.move_to(*self._awaits(process, Phase.BACKOFF))
        self._publish()

    def _is_to_fork(self, process: ProcessId) -> bool:
        """Whether the zygote forks it: because it needs vLLM, or to restart a light one sooner."""
        again = process in self._children and not ROLES[process.role].engine
        zygote = self._children.get(ZYGOTE)
        can = process != ZYGOTE and zygote is not None and zygote.phase is Phase.READY
        return self._config.forked(process) or (again and can)

    def _start_of(self, process: ProcessId) -> Phase:
        """The phase of the zygote if the process needs it; READY: it can be started now."""
        if not self._needs_zygote(process):
            return Phase.READY
        return zygote.phase if (zygote := self._children.get(ZYGOTE)) else Phase.STARTING

    def _needs_zygote(self, process: ProcessId) -> bool:
        return self._config.forked(process)

    def _on_bug(self, what: str, trace: list[str]) -> None:
        """Report an unexpected error. It ends a start, but not a server, which can work without."""
        text = f"an unexpected error: {what}"
        if not self._has_served:
            self._ending.give_up(InternalError(text))
        self._log_fanout.notice("ERROR", "\n".join([text, *trace]))

    def _retired(self, child: Child) -> None:
        """Forget a worker that has retired."""
        self._forget(child.process)

    def _forget(self, process: ProcessId) -> None:
        self._children.pop(process, None)
        self._restarts.pop(process, None)

    # -- what others are told ----------------------------------------------------------------

    def _publish(self) -> None:
        """Send the process table to the frontend and to the view.

        Also notes when serving begins, and ends a run in which nothing can serve any more.
        """
        table = [
            child.state(self._restarts[process].count) for process, child in self._children.items()
        ]
        if self._ending.begun:
            verdict = Verdict(False, "shutting down")
        else:
            table += self._not_started.rows(self._config, self._children, self._awaits)
            verdict = judge(table)
        frontend = self._children.get(FRONTEND)
        if frontend is not None and frontend.alive:
            serves = (verdict.serving, verdict.reason)
            message = ProcessTable(table, *serves, self._config.workers, self._offered())
            frontend.control.send_state(message)
        begins = verdict.serving and not self._has_served
        self._has_served |= begins
        if verdict.hopeless:
            why = f"no request can be served any more: {verdict.reason}."
            self._ending.give_up(ChildFailed(why))
        self._view.processes(table)
        if begins:
            # The frontend reports its URL as the detail of its readiness.
            url, has_keys = self._children[FRONTEND].reason, bool(self._config.frontend.api_keys)
            self._log_fanout.serving(url, has_keys=has_keys)

    def _awaits(self, process: ProcessId, phase: Phase) -> tuple[Phase, str]:
        """What a process that does not run waits for, in words, and its phase meanwhile: `phase`,
        unless it is given up."""
        if self._start_of(process) is Phase.FAILED:
            return Phase.FAILED, NO_ZYGOTE
        return phase, WAITS if self._needs_zygote(process) else ""

    def _offered(self) -> dict[str, int]:
        """Nodes that could be used too, with their free GPUs."""
        return {}
