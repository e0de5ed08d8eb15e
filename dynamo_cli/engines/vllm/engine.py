"""One vLLM engine in the caller's own loop: `add`, `abort`, `step`, no threads and no sockets.

EngineCore is vLLM's scheduler, model runner and KV cache behind one synchronous step.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import torch
from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest, UtilityOutput
from vllm.v1.engine.core import EngineCore, EngineCoreProc
from vllm.v1.executor import Executor, UniProcExecutor
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder, UtilityResult

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm import arguments, events
from dynamo_cli.errors import InvalidRequest, ModelError, ResourceError
from dynamo_cli.kv import hashes
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.messages import (
    AddRequest,
    CallUtility,
    EngineReady,
    Frames,
    StepOutputs,
    UtilityAnswer,
    WorkerStats,
)

logger = logging.getLogger(__name__)


class Engine:
    """A running engine.

    Args:
        index: of the worker that runs it.
        config: what to load.
        kv_events: keep account of what its prefix cache holds.

    Raises:
        ModelError, ResourceError, UsageError: it cannot be built.
    """

    def __init__(self, index: int, config: EngineConfig, *, kv_events: bool = False) -> None:
        self.index = index
        vllm_config = arguments.engine_config(arguments.parse(config), config)
        if kv_events:
            events.enable(vllm_config)
        self._core = _build(vllm_config, config.model)
        self._cache_events = events.CacheEvents(self._core) if kv_events else None
        self._encoder = MsgpackEncoder()
        self._requests = MsgpackDecoder(EngineCoreRequest)
        self._arguments = MsgpackDecoder()
        self._clients: dict[str, int] = {}
        self._totals = _Totals()

    def ready(self) -> EngineReady:
        """What the engine settled on while it started."""
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
        )

    @property
    def holdings(self) -> Holdings | None:
        """What the prefix cache holds, as of the last step or call; None when nobody asked."""
        return self._cache_events.holdings if self._cache_events else None

    def has_work(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._core.scheduler.has_requests())

    def add(self, client: int, message: AddRequest) -> None:
        """Queue a request of processor `client`.

        Raises:
            InvalidRequest: the engine cannot run it; nothing of it is held.
        """
        request = self._requests.decode(message.frames)
        if message.token_ids:
            request.prompt_token_ids = hashes.unpack_tokens(message.token_ids)
        request.client_index = client
        if request.sampling_params is not None and request.sampling_params.extra_args:
            # It would announce blocks again that are there already, and none of them leaves twice.
            request.sampling_params.extra_args.pop("kv_cache_report_mode", None)
        try:
            self._core.add_request(*self._core.preprocess_add_request(request))
        except (ValueError, TypeError) as error:
            raise InvalidRequest(arguments.first_line(error)) from error
        self._clients[message.request_id] = client

    def abort(self, request_ids: list[str]) -> None:
        """Forget these requests; their KV blocks are free at once. Unknown ids are ignored."""
        known = [
            request_id
            for request_id in request_ids
            if self._clients.pop(request_id, None) is not None
        ]
        if known:
            self._core.abort_requests(known)

    def abort_client(self, client: int) -> int:
        """Forget every request of a processor that is gone; returns how many there were."""
        lost = [request_id for request_id, owner in self._clients.items() if owner == client]
        self.abort(lost)
        return len(lost)

    def step(self) -> Iterator[tuple[int, StepOutputs]]:
        """Run one step of the whole batch; yields (processor, outputs of its requests)."""
        outputs, ran = self._core.step_fn()
        self._core.post_step(ran)
        self._take_cache_events()
        if not ran and self._core.scheduler.has_requests():
            time.sleep(0.001)  # only transfers are under way: leave the core to their threads
        for client, batch in (outputs or {}).items():
            self._totals.count(batch)
            # Stats go their own way (`stats`), a few times a second instead of every step.
            batch.scheduler_stats = None
            if batch.outputs:
                self._forget_finished(batch)
                yield client, StepOutputs(_bytes(self._encoder.encode(batch)))

    def _take_cache_events(self) -> None:
        if self._cache_events is not None:
            self._cache_events.take()

    def _forget_finished(self, batch: EngineCoreOutputs) -> None:
        for output in batch.outputs:
            if output.finish_reason is not None:
                self._clients.pop(output.request_id, None)

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
        # Whatever the method raises is the answer to whoever called it, not this loop's failure.
        except Exception as error:  # noqa: BLE001
            logger.warning("engine call %s failed: %s", message.method, error)
            return UtilityAnswer(
                message.call_id, [], f"{message.method}: {arguments.first_line(error)}"
            )
        answer = UtilityOutput(message.call_id, result=UtilityResult(result))
        return UtilityAnswer(message.call_id, _bytes(self._encoder.encode(answer)))

    def stats(self, refused_sends: int) -> WorkerStats:
        """Load now, and totals since the start."""
        running, waiting = self._core.scheduler.get_request_counts()
        usage = self._core.scheduler.get_kv_cache_usage()
        return self._totals.message(self.index, running, waiting, usage, refused_sends)

    def close(self) -> None:
        """Free the device and end tensor-parallel ranks."""
        self._core.shutdown()


class _Totals:
    """Counters over the life of the engine, from the statistics of each step."""

    def __init__(self) -> None:
        self.steps = 0
        self.queries = 0
        self.hits = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.preemptions = 0

    def count(self, batch: EngineCoreOutputs) -> None:
        for output in batch.outputs:
            self.output_tokens += len(output.new_token_ids)
            if output.prefill_stats is not None:
                self.prompt_tokens += output.prefill_stats.num_prompt_tokens
        if (stats := batch.scheduler_stats) is not None:
            self.steps += 1
            self.queries += stats.prefix_cache_stats.queries
            self.hits += stats.prefix_cache_stats.hits
            self.preemptions += stats.prefix_cache_stats.preempted_requests

    def message(
        self, worker: int, running: int, waiting: int, kv_usage: float, refused_sends: int
    ) -> WorkerStats:
        return WorkerStats(
            worker=worker,
            num_running_reqs=running,
            num_waiting_reqs=waiting,
            kv_cache_usage=kv_usage,
            prefix_cache_queries_tokens=self.queries,
            prefix_cache_hits_tokens=self.hits,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            preemptions=self.preemptions,
            steps=self.steps,
            refused_sends=refused_sends,
            sent_ns=time.monotonic_ns(),
        )


def _build(vllm_config: Any, model: str) -> EngineCore:
    if hasattr(torch.cpu, "_init_amx"):
        # Asked for in time, or the first one-token forward can die with SIGILL.
        torch.cpu._init_amx()
    try:
        return EngineCore(vllm_config, _executor_class(vllm_config), log_stats=True)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise ResourceError(
            f"not enough memory for the model {model!r}: {arguments.first_line(error)}. "
            "Lower --kv-cache-memory-bytes or --max-model-len, or use fewer workers."
        ) from error
    except (ValueError, OSError, NotImplementedError) as error:
        text = arguments.explain(error, model)
        if "memory" in text.lower():
            raise ResourceError(text) from error
        raise ModelError(text) from error


class _NamelessRendezvous(UniProcExecutor):  # type: ignore[misc]
    """torch.distributed wants a file even for a world of one; this one goes with the process."""

    def _distributed_args(self) -> tuple[str, int, int]:
        _, rank, local_rank = super()._distributed_args()
        return f"file:///proc/self/fd/{os.memfd_create('rendezvous')}", rank, local_rank


def _executor_class(vllm_config: Any) -> type[Executor]:
    chosen = Executor.get_class(vllm_config)
    return _NamelessRendezvous if chosen is UniProcExecutor else chosen


def _bytes(frames: Any) -> Frames:
    """Frames as bytes: the encoder gives memory of its own and views of tensors."""
    return [bytes(frame) for frame in frames]
