"""One vLLM engine, stepped by the loop of its process: no threads and sockets of its own.

vLLM's EngineCore joins scheduler, model runner and KV cache; its step is synchronous.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future

from vllm.v1.engine import EngineCoreOutputs, UtilityOutput
from vllm.v1.engine.core import EngineCoreProc
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder, UtilityResult

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.engines.vllm import refusals
from dynamo_cli.engines.vllm.core import (
    adapter_keys,
    build,
    chunks,
    events,
    faults,
    garbage,
    grammars,
    graphs,
    lora,
    operations,
    outgoing,
    plans,
    ranks,
    resume,
    warmup,
)
from dynamo_cli.engines.vllm.core.intake import VllmIntake
from dynamo_cli.engines.vllm.core.sides import VllmDecodeSide, VllmPrefillSide
from dynamo_cli.engines.vllm.core.totals import VllmTotals
from dynamo_cli.engines.vllm.core.vocabulary import Vocabulary
from dynamo_cli.engines.vllm.host_cache import naming
from dynamo_cli.engines.vllm.host_cache.leases import Leases
from dynamo_cli.engines.vllm.options import arguments, environment
from dynamo_cli.engines.vllm.options.transfer_config import uses_nixl
from dynamo_cli.errors import DynamoError
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.messages.admin import Operate
from dynamo_cli.messages.request import (
    AddRequest,
    CallUtility,
    EngineReady,
    StepOutputs,
    UtilityAnswer,
)
from dynamo_cli.messages.telemetry import CacheFacts, WorkerStats

WAIT_S = 0.001
"""Poll interval while only transfers or grammar compilation are pending."""

logger = logging.getLogger(__name__)


class VllmEngine:
    """An `engines.seam.Engine` that computes.

    Args:
        index: index of the worker that runs it.
        config: what to load.
        kv_events: keep track of what the prefix cache holds.

    Raises:
        ModelError, ResourceError, StartError, UsageError: it cannot be built.
    """

    def __init__(self, index: int, config: EngineConfig, *, kv_events: bool = False) -> None:
        self.index = index
        self._producer = config.kv_role == "kv_producer"
        with refusals.named(config.model):
            namespace = arguments.parse(config)
            vllm_config = arguments.engine_config(namespace, config)
            if kv_events:
                events.enable(vllm_config)
            adapter_keys.install()
            lora.install(vllm_config)
            fewer_graphs = graphs.chosen(namespace, vllm_config)
            if fewer_graphs:
                graphs.install()
            ranks.install(vllm_config, fewer_graphs=fewer_graphs)
            resume.install(vllm_config)
            plans.install()
            with environment.transfer(config):
                self._core = build.build(vllm_config)
            # A prefill worker compiles no grammars.
            vocabulary = None if self._producer else Vocabulary(self._core)
            if warmup.needed():
                warmup.run(self._core, vllm_config, vocabulary)
        self._cache_events = events.CacheEvents(self._core) if kv_events else None
        shares = config.host_cache is not None and not uses_nixl(config)
        manager = naming.connect(vllm_config, self.holdings) if shares else None
        self.cache_client: CacheClient | None = manager.client if manager is not None else None
        self._encoder = MsgpackEncoder()
        self._arguments = MsgpackDecoder()
        chunks.install(self._core.scheduler, config.prefill_chunk_tokens)
        self._totals = VllmTotals()
        self._intake = VllmIntake(self._core)
        self._clients = self._intake.clients
        self._consumer = config.kv_role == "kv_consumer"
        self.decode_side = VllmDecodeSide(index, self._core, self._intake, self.cache_client)
        self.prefill_side = VllmPrefillSide(
            index, self._intake, Leases(manager) if manager else None
        )
        # A prefill worker keeps no reasons: prompts that fail here are refused by decode workers.
        self._grammars = grammars.Grammars(self._core, None if self._producer else self._clients)
        self._failed: list[tuple[int, str, DynamoError]] = []
        self._failed_before = self._stood_still = False

    def ready(self) -> EngineReady:
        """The sizes and abilities of the engine, as vLLM determined them while it started."""
        config = self._core.vllm_config
        return EngineReady(
            worker=self.index,
            tasks=list(self._core.get_supported_tasks()),
            max_model_len=config.model_config.max_model_len,
            block_size=self.holdings.block_size
            if self.holdings
            else config.cache_config.block_size,
            num_blocks=config.cache_config.num_gpu_blocks or 0,
            max_num_seqs=config.scheduler_config.max_num_seqs,
            cache=CacheFacts(
                config.cache_config.kv_cache_size_tokens or 0,
                config.cache_config.kv_cache_max_concurrency or 0.0,
                config.cache_config.metrics_info(),
            ),
        )

    @property
    def batch_limits(self) -> tuple[int, int]:
        """Most requests and most tokens of one step."""
        config = self._core.vllm_config.scheduler_config
        return config.max_num_seqs, config.max_num_batched_tokens

    @property
    def vocabulary(self) -> int:
        """Size of the vocabulary: all token ids are below it."""
        return int(self._core.vllm_config.model_config.get_vocab_size())

    @property
    def caches_prefixes(self) -> bool:
        """Whether prefix caching is on."""
        return bool(self._core.vllm_config.cache_config.enable_prefix_caching)

    @property
    def holdings(self) -> Holdings | None:
        """What the prefix cache holds, as of the last step or call; None without KV events."""
        return self._cache_events.holdings if self._cache_events else None

    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._core.scheduler.has_requests())

    def add(self, client: int, message: AddRequest) -> None:
        """Queue a request of processor `client`.

        Raises:
            InvalidRequest, InternalError: the engine cannot run it; nothing of it is held.
        """
        self._intake.start(self._intake.prepare(client, message))

    def abort(self, request_ids: list[str]) -> None:
        """Forget these requests; their KV blocks are free at once. Unknown ids are ignored."""
        self._grammars.forget(request_ids)
        known = [name for name in request_ids if self._clients.pop(name, None) is not None]
        self.decode_side.forget(known)
        if known:
            self._core.abort_requests(known)

    def abort_client(self, client: int) -> list[str]:
        """Forget every request of a processor, and return their ids."""
        lost = [request_id for request_id, owner in self._clients.items() if owner == client]
        self.abort(lost)
        return lost

    def step(self) -> Iterator[tuple[int, StepOutputs]]:
        """Run one step of the whole batch; see `seam.Engine.step`.

        If one request has caused an error and the engine can go on without it, only that request
        fails; see `take_failed`. Every other error ends the engine.
        """
        outputs, ran = self._run_step()
        self._take_cache_events()
        self._stood_still = not ran
        for client, batch in outputs.items():
            self._failed += self._grammars.take_refused(batch)
            self._totals.count(batch)
            # `stats` reports them a few times a second.
            batch.scheduler_stats = None
            if batch.outputs:
                self._stood_still = False
                self._note_progress(batch)
                for message in self._sent(client, batch):
                    yield client, message
        self._totals.end_step()

    def _sent(self, client: int, batch: EngineCoreOutputs) -> list[StepOutputs]:
        """The messages for a processor; requests whose outputs no link takes fail."""
        messages, too_large = outgoing.sent(self._encoder, batch)
        for request_id, error in too_large:
            self.abort([request_id])  # unless that was its last output
            self._failed.append((client, request_id, error))
        return messages

    def _run_step(self) -> tuple[dict[int, EngineCoreOutputs], bool]:
        try:
            outputs, ran = self._core.step_fn()
            self._core.post_step(ran)
        # Any exception is handled alike: what matters is whether one request has caused it.
        except Exception as error:  # noqa: BLE001 - raised again unless one request has caused it
            self._leave_out_culprit(error)
            return {}, True
        self._failed_before = False
        return outputs or {}, ran

    def _leave_out_culprit(self, error: Exception) -> None:
        """Fail the one request that made a step fail; raise the error again if there is none."""
        request_id = faults.culprit(self._core, error)
        client = self._clients.get(request_id)
        again, self._failed_before = self._failed_before, True
        if client is None or again or self._producer or not faults.can_go_on(self._core, error):
            suspects = [request_id] if request_id else list(self._core.scheduler.requests)
            logger.error("an engine step with these requests failed: %s", ", ".join(suspects))
            raise error
        logger.error("request %s made an engine step fail", request_id, exc_info=error)
        faults.leave_out(self._core, request_id)
        del self._clients[request_id]
        self._failed.append((client, request_id, faults.named(error)))

    def take_failed(self) -> list[tuple[int, str, DynamoError]]:
        """Requests that failed alone since the last call: processor, id, and why."""
        failed, self._failed = self._failed, []
        self.decode_side.forget([request_id for _, request_id, _ in failed])
        return failed

    def rest(self) -> None:
        """Sleep a moment if the last step had nothing to do; other threads use the CPU core."""
        if self._stood_still and self._core.scheduler.has_requests():
            time.sleep(WAIT_S)

    def _take_cache_events(self) -> None:
        if self._cache_events is not None:
            self._cache_events.take()

    def _note_progress(self, batch: EngineCoreOutputs) -> None:
        for output in batch.outputs:
            handed_over = self._consumer and self.decode_side.handed_over(output.request_id)
            if output.prefill_stats is not None:
                if self._consumer:  # only a decode worker takes these
                    self.decode_side.note_started(output.request_id)
                resume.drop_stats(output)
            if (prefill := output.prefill_stats) is not None:
                if handed_over:  # blocks from a prefill worker are no hits of a cache
                    prefill.num_cached_tokens = prefill.num_local_cached_tokens
                else:
                    self._totals.count_loaded(prefill.num_external_cached_tokens)
            if output.finish_reason is not None:
                self._clients.pop(output.request_id, None)
                self.decode_side.forget([output.request_id])
                if self._producer:
                    self.prefill_side.note_ended(output.request_id, output.kv_transfer_params)

    def call(self, message: CallUtility) -> UtilityAnswer:
        """Call a public method of EngineCore by name and wait for its result."""
        try:
            method = getattr(self._core, message.method)
            args = EngineCoreProc._convert_msgspec_args(
                method, self._arguments.decode(message.args)
            )
            result = method(*args)
            if isinstance(result, Future):
                result = result.result()
            self._take_cache_events()
        # Whatever the method raises goes to its caller; the engine goes on.
        except Exception as error:  # noqa: BLE001
            logger.warning("engine call %s failed: %s", message.method, error)
            return UtilityAnswer(message.call_id, [], f"{message.method}: {refusals.reason(error)}")
        answer = UtilityOutput(message.call_id, result=UtilityResult(result))
        return UtilityAnswer(message.call_id, outgoing.copied(self._encoder.encode(answer)))

    @property
    def asleep(self) -> bool:
        """Whether the engine sleeps: it runs nothing until it is woken up."""
        return bool(self._core.is_sleeping())

    def operate(self, order: Operate) -> bool:
        """See `operations.operate`."""
        result = operations.operate(self._core, order)
        self._take_cache_events()
        return result

    def stats(self, refused_sends: int) -> WorkerStats:
        """The load now, and totals since the start."""
        running, waiting = self._core.scheduler.get_request_counts()
        usage = self._core.scheduler.get_kv_cache_usage()
        kept = len(self._clients) + (self.cache_client.kept if self.cache_client else 0)
        return self._totals.message(self.index, running, waiting, usage, refused_sends, kept)

    def close(self) -> None:
        """Free the device and end the processes of the ranks; this process ends next."""
        with garbage.left():
            self._core.shutdown()
