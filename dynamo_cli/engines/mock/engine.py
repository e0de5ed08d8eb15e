"""A simulated engine as a worker runs it: `SimEngine` with a clock.

Its answers repeat the tokens of the prompt, and it sleeps for the times that its profile says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.engines.mock import report, wire
from dynamo_cli.engines.mock.intake import MockIntake, Running
from dynamo_cli.engines.mock.options import NO_CACHE, sized
from dynamo_cli.engines.mock.profile import PS, StepTimes, load
from dynamo_cli.engines.mock.request import SimRequest, StepResult
from dynamo_cli.engines.mock.sides import MockDecodeSide, MockPrefillSide
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.engines.mock.tier import PS_PER_NS, MockHostCache, client_of
from dynamo_cli.errors import Conflict, DynamoError
from dynamo_cli.kv.holdings import Held
from dynamo_cli.messages.admin import Operate, Operation
from dynamo_cli.messages.request import (
    AddRequest,
    CallUtility,
    EngineReady,
    StepOutputs,
    UtilityAnswer,
)
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.units import SECOND_NS

MOST_LATE_NS = SECOND_NS // 100
"""A step that the process begins late is made shorter to catch up, by this time at most."""

WAIT_S = 0.001
"""Poll interval while all requests wait for their KV blocks."""


class MockEngine:
    """An `engines.seam.Engine` without weights.

    Args:
        index: index of the worker that runs it.
        config: the profile, the speedup, and vLLM's options for sizes.
        kv_events: whether the router needs to know what the prefix cache holds.

    Raises:
        UsageError: the profile or an option cannot be used.
    """

    def __init__(self, index: int, config: EngineConfig, *, kv_events: bool = False) -> None:
        assert config.simulation is not None
        self.index = index
        self._profile = msgspec.structs.replace(
            sized(load(config.simulation.profile), config.args),
            prefill_chunk_tokens=config.prefill_chunk_tokens,
        )
        self._speedup = config.simulation.speedup
        self._speed = StepTimes.of(self._profile)
        self._tier = self._tier_of(config)
        self.cache_client: CacheClient | None = self._tier.client if self._tier else None
        caching = NO_CACHE not in config.args
        self._sim = SimEngine(self._profile, caching=caching, tier=self._tier)
        self._kv_events = kv_events
        self._consumer = config.kv_role == "kv_consumer"
        self._intake = MockIntake(self._profile, self._sim)
        self._running = self._intake.running
        self.decode_side = MockDecodeSide(index, self._sim, self._intake, self._transfer_s)
        self.prefill_side = MockPrefillSide(index, self._intake)
        self._due_ns = 0  # when the last step was due to end
        self._follows = False
        self._idle = False  # the last step had nothing to compute
        self._asleep = False

    def _tier_of(self, config: EngineConfig) -> MockHostCache | None:
        """The simulated host cache; None without one, and with disaggregation."""
        if config.host_cache is None or config.kv_role:
            return None
        client = client_of(self._profile)
        return MockHostCache(client, self._profile, config.host_cache.min_tokens, self._speedup)

    def _now_ps(self, now_ns: int) -> int:
        """The time of the simulation, in picoseconds."""
        return round(now_ns * self._speedup) * PS_PER_NS

    def _transfer_s(self, tokens: int) -> float:
        """Time to transfer this number of tokens from one engine to another, seconds."""
        return self._speed.transfer_ps(tokens) / PS / self._speedup

    def ready(self) -> EngineReady:
        """Sizes of the profile."""
        return report.ready(self.index, self._profile)

    @property
    def batch_limits(self) -> tuple[int, int]:
        """Most requests and most tokens of one step."""
        return self._profile.max_num_seqs, self._profile.max_num_batched_tokens

    @property
    def holdings(self) -> Held | None:
        """What the prefix cache holds; None if the engine was built without KV events."""
        return self._sim.blocks if self._kv_events else None

    def has_work(self) -> bool:
        """Whether a request runs, waits, or waits for KV blocks of a prefill worker."""
        return self._sim.has_work() or bool(self.decode_side.moving)

    # -- requests --------------------------------------------------------------------------

    def add(self, client: int, message: AddRequest) -> None:
        """Queue a request of processor `client`.

        Raises:
            InvalidRequest: it needs a model, or does not fit.
            InternalError: its answer is complete already.
        """
        self._intake.start(self._intake.prepare(client, message))

    def abort(self, request_ids: list[str]) -> None:
        """Forget these requests; their KV blocks are free at once. Unknown ids are ignored."""
        for request_id in request_ids:
            if self._running.pop(request_id, None) is None:
                continue
            self.decode_side.forget(request_id)
            self._sim.abort(request_id)

    def abort_client(self, client: int) -> list[str]:
        """Forget every request of a processor, and return their ids."""
        lost = [request_id for request_id, one in self._running.items() if one.client == client]
        self.abort(lost)
        return lost

    # -- steps -----------------------------------------------------------------------------

    def step(self) -> Iterator[tuple[int, StepOutputs]]:
        """Simulate one step and sleep for its time; yields (processor, outputs of its requests)."""
        self.decode_side.take_moved()
        if not self._sim.has_work():
            return
        began_ns = time.monotonic_ns()
        result = self._sim.step(self._now_ps(began_ns))
        self._idle = result.idle
        self._let_pass(began_ns, result.duration_ps)
        if self._tier is not None:
            self._tier.store()
        for request in result.begun:
            self._running[request.request_id].begun_s = began_ns / SECOND_NS
        by_client: dict[int, list[wire.Output]] = {}
        for request in (*result.finished, *self._sim.decoding()):
            if request in result.stalled:
                continue
            running = self._running[request.request_id]
            if not running.job:
                by_client.setdefault(running.client, []).append(self._output(request, running))
        self._finish(result)
        for client, outputs in by_client.items():
            yield client, StepOutputs([msgspec.msgpack.encode(wire.CoreOutputs(outputs=outputs))])

    def take_failed(self) -> list[tuple[int, str, DynamoError]]:
        """Nothing: simulated requests do not fail."""
        return []

    def rest(self) -> None:
        """Wait a moment if all requests wait for their KV blocks.

        While one waits for an answer of the host cache, the loop of the process waits for messages
        instead.
        """
        asks = self.cache_client is not None and self.cache_client.waits()
        loads = self._idle and self._sim.has_work() and not asks
        if loads or (self.decode_side.moving and not self._sim.has_work()):
            time.sleep(min(WAIT_S, self._until_loaded_s()))

    def _until_loaded_s(self) -> float:
        """Time until the next load ends, seconds; `WAIT_S` if none runs."""
        due_ps = self._tier.next_ps if self._tier is not None else None
        if due_ps is None:
            return WAIT_S
        left_ps = due_ps - self._now_ps(time.monotonic_ns())
        return max(left_ps, 0) / PS / self._speedup

    def _let_pass(self, began_ns: int, duration_ps: int) -> None:
        """Sleep for as long as a real engine would compute.

        If a step directly follows another, it counts from the time when that one was due to end.
        So the time that the process spends between steps makes the engine no slower.
        """
        if self._follows:
            began_ns = max(self._due_ns, began_ns - MOST_LATE_NS)
        self._due_ns = began_ns + round(duration_ps * SECOND_NS / PS / self._speedup)
        self._follows = self._sim.has_work()
        left_ns = self._due_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / SECOND_NS)

    def _output(self, request: SimRequest, running: Running) -> wire.Output:
        """The token of a request in this step."""
        produced = self._sim.output_of(request)
        output = wire.Output(
            request.request_id, [running.token(request.prompt_tokens + produced - 1)]
        )
        if produced == request.resumed + 1 and self._consumer:  # only `Handover` asks for these
            self.decode_side.note_started(request.request_id)
        if produced == 1:
            cached = request.cached_tokens
            assert cached is not None
            local = cached - request.loaded_tokens
            external = max(request.remote_tokens - cached, 0)
            computed = request.prompt_tokens - cached - external
            output.prefill_stats = wire.PrefillStats(
                request.prompt_tokens, computed, cached, local, external + request.loaded_tokens
            )
            output.events = [
                wire.CoreEvent(wire.QUEUED, running.queued_s),
                wire.CoreEvent(wire.SCHEDULED, running.begun_s),
            ]
        if produced == request.output_tokens:
            output.finish_reason = wire.STOP if running.natural else wire.LENGTH
        return output

    def _finish(self, result: StepResult) -> None:
        for request in result.finished:
            if self._running.pop(request.request_id).job:
                self.prefill_side.note_ended(request.request_id)

    # -- all else --------------------------------------------------------------------------

    def call(self, message: CallUtility) -> UtilityAnswer:
        """Refuse: there is no vLLM engine whose methods could be called."""
        error = f"the simulated engine has no method {message.method}."
        return UtilityAnswer(message.call_id, [], error)

    @property
    def asleep(self) -> bool:
        """Whether the engine sleeps."""
        return self._asleep

    def operate(self, order: Operate) -> bool:
        """See `engines.seam.Engine.operate`."""
        match order.operation:
            case Operation.SLEEP:
                if order.level:
                    raise Conflict("a simulated engine has no memory to free; use sleep level 0.")
                self._asleep = True
            case Operation.WAKE_UP:
                self._asleep = False
            case Operation.RESET_PREFIX_CACHE:
                return self._sim.reset_cache(running=order.reset_running)
        return self._asleep

    def stats(self, refused_sends: int) -> WorkerStats:
        """The load now, and totals since the start."""
        return report.stats(
            self.index,
            self._sim,
            time.monotonic_ns(),
            moving=self.decode_side.moving,
            refused_sends=refused_sends,
        )

    def close(self) -> None:
        """Nothing to free."""
