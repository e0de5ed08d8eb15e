"""A simulated engine as a worker runs it: `SimEngine` and the clock.

It answers with the words of the prompt, over and over, and takes the time that its profile says.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.mock import report, wire
from dynamo_cli.engines.mock.options import NO_CACHE, sized
from dynamo_cli.engines.mock.profile import PS, Speed, load
from dynamo_cli.engines.mock.request import SimRequest, StepResult
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.errors import Conflict, DynamoError, InvalidRequest
from dynamo_cli.kv import hashes
from dynamo_cli.kv.hashes import ExtraKeys
from dynamo_cli.kv.holdings import Held
from dynamo_cli.messages.admin import Operate, Operation
from dynamo_cli.messages.prefill import PushJob, TransferStats
from dynamo_cli.messages.request import (
    AddRequest,
    CallUtility,
    EngineReady,
    StepOutputs,
    UtilityAnswer,
)
from dynamo_cli.messages.telemetry import WorkerStats

NATURAL_TOKENS = 256
"""Length of an answer of which nobody said how long it shall be."""

SECOND_NS = 1_000_000_000
MOST_LATE_NS = SECOND_NS // 100
WAIT_S = 0.001
"""Between two looks at what is on its way."""

PLANE = "simulated"
"""How blocks get from one engine to another."""


@dataclass(slots=True)
class _Running:
    """A request that is not over.

    Attributes:
        client: the processor, or of a prefill the decode worker, that it belongs to.
        tokens: of its prompt, little-endian int32.
        natural: its end is the engine's own.
        queued_s, begun_s: when it came, and when the step began in which it did; 0 before.
        job: it is a prefill for another engine.
    """

    client: int
    tokens: bytes
    natural: bool
    queued_s: float
    begun_s: float = 0.0
    job: bool = False

    def token(self, place: int) -> int:
        """Of prompt and answer."""
        start = hashes.TOKEN_BYTES * (place % (len(self.tokens) // hashes.TOKEN_BYTES))
        return int.from_bytes(self.tokens[start : start + hashes.TOKEN_BYTES], "little")


class MockEngine:
    """An `engines.seam.Engine` without weights.

    Args:
        index: of the worker that runs it.
        config: which profile, how fast, and vLLM's options for sizes.
        kv_events: somebody wants to know what its prefix cache holds.

    Raises:
        UsageError: the profile or an option cannot be used.
    """

    def __init__(self, index: int, config: EngineConfig, *, kv_events: bool = False) -> None:
        assert config.simulation is not None
        self.index = index
        self._profile = sized(load(config.simulation.profile), config.args)
        self._speedup = config.simulation.speedup
        self._speed = Speed.of(self._profile)
        self._sim = SimEngine(self._profile, caching=NO_CACHE not in config.args)
        self._kv_events = kv_events
        self._producer = config.kv_role == "kv_producer"
        self._consumer = config.kv_role == "kv_consumer"
        self._requests = msgspec.msgpack.Decoder(wire.Request)
        self._running: dict[str, _Running] = {}
        self._moving: dict[str, tuple[int, SimRequest]] = {}  # by id: when its blocks are there
        self._due_ns = 0  # when the last step should have ended
        self._follows = False
        self._asleep = False
        self._started: list[str] = []
        self._prefills: list[tuple[str, bytes, str]] = []
        self._taken: list[str] = []
        self._copies = 0
        self._copy_s = 0.0

    def ready(self) -> EngineReady:
        return report.ready(self.index, self._profile)

    @property
    def batch_limits(self) -> tuple[int, int]:
        return self._profile.max_num_seqs, self._profile.max_num_batched_tokens

    @property
    def holdings(self) -> Held | None:
        return self._sim.blocks if self._kv_events else None

    def has_work(self) -> bool:
        return self._sim.has_work() or bool(self._moving)

    # -- requests --------------------------------------------------------------------------

    def add(self, client: int, message: AddRequest) -> None:
        self.start(self.prepare(client, message))

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        request = self._requests.decode(message.frames[0])
        _refuse_what_needs_a_model(request, message.token_ids)
        sampling = request.sampling_params
        assert sampling is not None
        prompt_tokens = len(message.token_ids) // hashes.TOKEN_BYTES
        room = self._profile.max_model_len - prompt_tokens
        natural = sampling.max_tokens is None or sampling.max_tokens >= room
        output_tokens = min(room, NATURAL_TOKENS) if natural else sampling.max_tokens or 1
        sim = self._sim_request(
            message.request_id, message.token_ids, output_tokens, request.cache_salt
        )
        sim.priority = request.priority
        if not self._sim.fits(sim):
            raise InvalidRequest(
                f"{prompt_tokens} prompt tokens and {output_tokens} of the answer do not fit "
                "into the simulated engine."
            )
        return Prepared(
            client=client,
            message=message,
            family=request.external_req_id or request.request_id,
            prompt_tokens=prompt_tokens,
            priority=request.priority,
            suitable=not sampling.skip_reading_prefix_cache,
            begin=(sim, natural),
        )

    def _sim_request(
        self, request_id: str, tokens: bytes, output_tokens: int, salt: str | None
    ) -> SimRequest:
        blocks = len(tokens) // hashes.TOKEN_BYTES // self._profile.block_size
        keys: list[ExtraKeys] = [(salt,), *[None] * (blocks - 1)] if salt and blocks else []
        return SimRequest(
            request_id,
            len(tokens) // hashes.TOKEN_BYTES,
            output_tokens,
            hashes.chain(tokens, self._profile.block_size, keys),
            self._name_block,
        )

    def _name_block(self, request: SimRequest, block: int) -> int:
        """The hash of a block that holds output: of its tokens, as of any other."""
        size, running = self._profile.block_size, self._running[request.request_id]
        tokens = [running.token(place) for place in range(block * size, (block + 1) * size)]
        parent = request.hashes[block - 1] if block else hashes.ROOT
        return hashes.chain(hashes.pack_tokens(tokens), size, (), parent)[0]

    def start(self, prepared: Prepared, kv_transfer_params: dict[str, Any] | None = None) -> None:
        sim, natural = prepared.begin
        message = prepared.message
        self._running[sim.request_id] = _Running(
            prepared.client, message.token_ids, natural, time.monotonic()
        )
        if kv_transfer_params is None:
            self._sim.add(sim)
            return
        tokens = sim.prompt_tokens - self._sim.cached_tokens(sim)
        duration_s = self._speed.transfer_ps(tokens) / PS / self._speedup
        sim.remote_tokens = sim.prompt_tokens - 1
        self._moving[sim.request_id] = time.monotonic_ns() + round(duration_s * SECOND_NS), sim
        self._copies += 1
        self._copy_s += duration_s

    def cached_tokens(self, prepared: Prepared) -> int:
        return self._sim.cached_tokens(prepared.begin[0])

    def abort(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            if self._running.pop(request_id, None) is None:
                continue
            if self._moving.pop(request_id, None) is not None:
                self._taken.append(request_id)
            self._sim.abort(request_id)

    def abort_client(self, client: int) -> list[str]:
        lost = [request_id for request_id, one in self._running.items() if one.client == client]
        self.abort(lost)
        return lost

    # -- steps -----------------------------------------------------------------------------

    def step(self) -> Iterator[tuple[int, StepOutputs]]:
        self._take_moved()
        if not self._sim.has_work():
            return
        began_ns = time.monotonic_ns()
        result = self._sim.step()
        self._let_pass(began_ns, result.duration_ps)
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
            yield client, StepOutputs([msgspec.msgpack.encode(wire.Outputs(outputs=outputs))])

    def take_failed(self) -> list[tuple[int, str, DynamoError]]:
        return []  # a simulation does not fail

    def rest(self) -> None:
        if self._moving and not self._sim.has_work():
            time.sleep(WAIT_S)

    def _let_pass(self, began_ns: int, duration_ps: int) -> None:
        """Sleep while the engine would compute.

        A step that follows on another begins when that one should have ended, so that what the
        process does between them does not add up.
        """
        if self._follows:
            began_ns = max(self._due_ns, began_ns - MOST_LATE_NS)
        self._due_ns = began_ns + round(duration_ps * SECOND_NS / PS / self._speedup)
        self._follows = self._sim.has_work()
        left_ns = self._due_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / SECOND_NS)

    def _take_moved(self) -> None:
        """Requests whose blocks have arrived."""
        now_ns = time.monotonic_ns()
        there = [rid for rid, (due_ns, _) in self._moving.items() if due_ns <= now_ns]
        for request_id in there:
            self._sim.add(self._moving.pop(request_id)[1])
            self._taken.append(request_id)

    def _output(self, request: SimRequest, running: _Running) -> wire.Output:
        """Its token of this step."""
        produced = self._sim.output_of(request)
        output = wire.Output(
            request.request_id, [running.token(request.prompt_tokens + produced - 1)]
        )
        if produced == 1:
            if self._consumer:  # nobody asks elsewhere
                self._started.append(request.request_id)
            cached = request.cached_tokens
            assert cached is not None
            external = max(request.remote_tokens - cached, 0)
            computed = request.prompt_tokens - cached - external
            output.prefill_stats = wire.PrefillStats(
                request.prompt_tokens, computed, cached, cached, external
            )
            output.events = [
                wire.Event(wire.QUEUED, running.queued_s),
                wire.Event(wire.SCHEDULED, running.begun_s),
            ]
        if produced == request.output_tokens:
            output.finish_reason = wire.STOP if running.natural else wire.LENGTH
        return output

    def _finish(self, result: StepResult) -> None:
        for request in result.finished:
            if self._running.pop(request.request_id).job:
                params = json.dumps({"transfer_id": request.request_id}).encode()
                self._prefills.append((request.request_id, params, ""))

    # -- prefill here, decode elsewhere, or the other way round ------------------------------

    def add_prefill(self, job: PushJob, owner: int) -> None:
        request = self._requests.decode(job.frames[0])
        sim = self._sim_request(job.job_id, job.token_ids, 1, request.cache_salt)
        if not self._sim.fits(sim):
            raise InvalidRequest(f"{sim.prompt_tokens} prompt tokens do not fit.")
        self._running[job.job_id] = _Running(
            owner, job.token_ids, natural=False, queued_s=time.monotonic(), job=True
        )
        self._sim.add(sim)

    def take_prefills(self) -> list[tuple[str, bytes, str]]:
        ended, self._prefills = self._prefills, []
        return ended

    def take_started(self) -> list[str]:
        started, self._started = self._started, []
        return started

    def take_unneeded(self) -> list[str]:
        taken, self._taken = self._taken, []
        return taken

    def release(self, transfer_ids: list[str]) -> None:
        """Blocks are free from the end of the prefill on: nothing is kept for the other side."""

    def owner_gone(self, worker: int) -> None:
        """Nothing is kept for it."""

    def expire_transfers(self, before_ns: int) -> None:
        """Nothing is kept."""

    def transfer_stats(self, **more: Any) -> TransferStats:
        nothing: dict[str, Any] = {"placements": {}, "fallbacks": {}, "away": 0, "prefill_s": []}
        return TransferStats(
            prefill=self._producer,
            worker=self.index,
            copies={PLANE: self._copies},
            nbytes={},
            copy_s={PLANE: self._copy_s},
            failures={},
            arena_used_bytes=0,
            arena_bytes=0,
            **(nothing | more),
        )

    # -- all else --------------------------------------------------------------------------

    def call(self, message: CallUtility) -> UtilityAnswer:
        error = f"the simulated engine does not know {message.method}."
        return UtilityAnswer(message.call_id, [], error)

    @property
    def asleep(self) -> bool:
        return self._asleep

    def operate(self, order: Operate) -> bool:
        match order.operation:
            case Operation.SLEEP:
                if order.level:
                    raise Conflict("a simulated engine has no memory to free: sleep level 0.")
                self._asleep = True
            case Operation.WAKE_UP:
                self._asleep = False
            case Operation.RESET_PREFIX_CACHE:
                return self._sim.reset_cache(running=order.reset_running)
        return self._asleep

    def stats(self, refused_sends: int) -> WorkerStats:
        return report.stats(
            self.index,
            self._sim,
            time.monotonic_ns(),
            moving=len(self._moving),
            refused_sends=refused_sends,
        )

    def close(self) -> None:
        """Nothing to free."""


def _refuse_what_needs_a_model(request: wire.Request, tokens: bytes) -> None:
    sampling = request.sampling_params
    if sampling is None or not tokens:
        raise InvalidRequest("the simulated engine only continues prompts of tokens.")
    if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
        raise InvalidRequest("the simulated engine has no probabilities; ask without logprobs.")
    if sampling.structured_outputs is not None:
        raise InvalidRequest("the simulated engine keeps to no grammar or schema.")
    if request.lora_request is not None:
        raise InvalidRequest("the simulated engine has no adapters.")
