"""Real engines of the tiny model in processes of their own, stepped by the test."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dynamo_cli.config import EngineConfig
from dynamo_cli.errors import DynamoError

BLOCK = 32
FORKSERVER = multiprocessing.get_context("forkserver")
ARGS = (
    *("--block-size", str(BLOCK), "--max-model-len", "2048", "--dtype", "float32"),
    *("--enforce-eager", "--kv-cache-memory-bytes", str(64 << 20), "--max-num-seqs", "64"),
)
CHUNKED = ("--max-num-batched-tokens", "64")
ANSWER_S = 60.0


class Died(Exception):
    """The process of the engine is gone."""


class Engine:
    """An engine in a child process, which steps only when it is told to.

    Args:
        path: folder of the model.
        role: ``kv_producer`` or ``kv_consumer``; empty for an engine that does everything itself.
        args: further options of vLLM.
        arena_bytes: size of a producer's arena.
    """

    def __init__(
        self, path: str, role: str = "", args: tuple[str, ...] = (), arena_bytes: int = 16 << 20
    ) -> None:
        config = EngineConfig(
            model="tiny",
            path=path,
            served_names=("tiny",),
            args=ARGS + args,
            threads=1,
            kv_role=role,
            kv_arena_bytes=arena_bytes,
        )
        self._pipe, theirs = FORKSERVER.Pipe()
        self._process = FORKSERVER.Process(target=_serve, args=(config, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Any public method of `_Child`, called in the child process."""

        def call(*args: Any) -> Any:
            try:
                self._pipe.send((name, args))
                assert self._pipe.poll(ANSWER_S), f"{name}: no answer"
                answer, failed = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise Died from error
            assert not failed, failed
            return answer

        return call

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self._process.join()
        self._pipe.close()

    def stop(self) -> None:
        if self._process.is_alive():
            self._pipe.send(("stop", ()))
            self._process.join(ANSWER_S)
        self._pipe.close()
        assert self._process.exitcode == 0


def _serve(config: EngineConfig, pipe: Connection) -> None:
    from dynamo_cli.engines.vllm.options import environment

    # With fork, locks have no names, which would be left behind when this process is killed.
    multiprocessing.set_start_method("fork", force=True)
    environment.prepare(config)
    try:
        child = _Child(config)
    except DynamoError as error:
        pipe.recv()
        pipe.send((None, f"{type(error).__name__}: {error}"))
        return
    while True:
        name, args = pipe.recv()
        if name == "stop":
            child.close()
            return
        pipe.send((getattr(child, name)(*args), ""))


@dataclass(slots=True)
class State:
    """What an engine holds, and its counters.

    Attributes:
        requests: number of requests in it.
        free_blocks: free blocks of its cache.
        used_slots: slots in use of its arena.
        fds: number of open descriptors.
        maps: number of mapped arenas.
        unneeded: transfers whose slots the other side can free.
    """

    requests: int
    free_blocks: int
    used_slots: int
    copies: dict[str, int]
    nbytes: dict[str, int]
    copy_s: dict[str, float]
    failures: dict[str, int]
    fds: int
    maps: int
    unneeded: list[str] = field(default_factory=list)


class _Child:
    """The engine in the child process."""

    def __init__(self, config: EngineConfig) -> None:
        from dynamo_cli.engines.vllm.core.engine import Engine as Real

        self._engine = Real(0, config)
        self._tokens: dict[str, list[int]] = {}
        self._finished: dict[str, str] = {}

    def ready(self) -> int:
        """Number of blocks of its cache, once it is ready."""
        return self._engine.ready().num_blocks

    def prefill(self, job_id: str, tokens: list[int], skip_tokens: int = 0) -> None:
        from dynamo_cli.messages.prefill import PushJob

        self._engine.prefill_side.add(
            PushJob(
                job_id=job_id,
                prompt_tokens=len(tokens),
                skip_tokens=skip_tokens,
                holder=None,
                priority=0,
                deadline_ns=0,
                token_ids=b"",
                frames=_frames(job_id, tokens, 1),
            ),
            owner=0,
        )

    def decode(
        self,
        request_id: str,
        tokens: list[int],
        count: int,
        params: dict[str, Any] | None = None,
        said: Sequence[int] = (),
    ) -> None:
        self._engine.decode_side.start(self._prepared(request_id, tokens, count, said), params)

    def cached_tokens(self, tokens: list[int], said: Sequence[int] = ()) -> int:
        return self._engine.decode_side.cached_tokens(self._prepared("asked", tokens, 99, said))

    def _prepared(self, request_id: str, tokens: list[int], count: int, said: Sequence[int]) -> Any:
        from dynamo_cli.kv import hashes
        from dynamo_cli.messages.request import AddRequest

        frames, output_tokens = _frames(request_id, tokens, count), hashes.pack_tokens(said)
        message = AddRequest(request_id, b"", frames, output_tokens=output_tokens)
        return self._engine.decode_side.prepare(0, message)

    def step(self) -> None:
        """Run one step."""
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.serial_utils import MsgpackDecoder

        for _, outputs in self._engine.step():
            for output in MsgpackDecoder(EngineCoreOutputs).decode(outputs.frames).outputs:
                self._tokens.setdefault(output.request_id, []).extend(output.new_token_ids)
                if output.finish_reason is not None:
                    self._finished[output.request_id] = str(output.finish_reason)

    def run(self) -> None:
        """Run steps until nothing is left to do."""
        while self._engine.has_work():
            self.step()

    def said(self, request_id: str) -> int:
        """Number of tokens of a request so far."""
        return len(self._tokens.get(request_id, ()))

    def answers(self) -> dict[str, list[int]]:
        """Tokens of the requests that finished since the last call."""
        finished, self._finished = self._finished, {}
        return {request_id: self._tokens.pop(request_id) for request_id in finished}

    def handed_over(self) -> dict[str, dict[str, Any]]:
        """Parameters of the prefills that ended since the last call, or why they failed."""
        return {
            job_id: {"failed": failed} if failed else json.loads(params)
            for job_id, params, failed in self._engine.prefill_side.take_ended()
        }

    def started(self) -> list[str]:
        """Requests that had their first token here since the last call."""
        return self._engine.decode_side.take_started()

    def abort(self, request_id: str) -> None:
        self._engine.abort([request_id])

    def release(self, transfer_ids: list[str]) -> None:
        self._engine.prefill_side.release(transfer_ids)

    def state(self) -> State:
        scheduler = self._engine._core.scheduler
        stats = self._engine.prefill_side.stats(prefill_s=[], kept=0)
        slots = self._engine._transfers.slots
        maps = Path("/proc/self/maps").read_text()
        return State(
            requests=len(scheduler.requests),
            free_blocks=scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            used_slots=slots.used if slots else 0,
            copies=stats.copies,
            nbytes=stats.nbytes,
            copy_s=stats.copy_s,
            failures=stats.failures,
            fds=len(list(Path("/proc/self/fd").iterdir())),
            maps=maps.count("dynamo-llm:kv-arena"),
            unneeded=self._engine.decode_side.take_unneeded(),
        )

    def slow_copies(self, seconds: float) -> None:
        """Delay the start of every copy, so that a test can act before it."""
        import time

        copier = self._engine._transfers.copier
        for name in ("_save", "_load"):
            real = getattr(type(copier), name)

            def late(*args: Any, real: Any = real) -> Any:
                time.sleep(seconds)
                return real(copier, *args)

            setattr(copier, name, late)

    def quick_copies(self) -> None:
        """End the delay of `slow_copies`."""
        for name in ("_save", "_load"):
            vars(self._engine._transfers.copier).pop(name, None)

    def close(self) -> None:
        self._engine.close()


def _frames(request_id: str, tokens: list[int], count: int) -> list[bytes]:
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.serial_utils import MsgpackEncoder

    request = EngineCoreRequest(
        request_id=request_id,
        prompt_token_ids=tokens,
        mm_features=None,
        sampling_params=SamplingParams(temperature=0, max_tokens=count, ignore_eos=True),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    return [bytes(frame) for frame in MsgpackEncoder().encode(request)]
