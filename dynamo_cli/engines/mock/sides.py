"""Disaggregation with simulated engines: a transfer of KV blocks takes time, but moves no data."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dynamo_cli.engines.mock import report
from dynamo_cli.engines.mock.intake import MockIntake
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.messages.prefill import PushJob, TransferStats
from dynamo_cli.messages.request import AddRequest
from dynamo_cli.units import SECOND_NS


class MockDecodeSide:
    """An `engines.seam.DecodeSide`.

    Args:
        worker: index of the worker that runs the engine.
        sim: the engine.
        intake: takes its requests.
        transfer_s: returns the time to transfer a number of tokens between engines, seconds.
    """

    def __init__(
        self, worker: int, sim: SimEngine, intake: MockIntake, transfer_s: Callable[[int], float]
    ) -> None:
        self._worker = worker
        self._sim = sim
        self._intake = intake
        self._transfer_s = transfer_s
        self._moving: dict[str, tuple[int, SimRequest]] = {}  # by id: when its transfer ends
        self._started: list[str] = []
        self._taken: list[str] = []
        self._copies = 0
        self._copy_s = 0.0

    @property
    def moving(self) -> int:
        """Number of requests that wait for KV blocks of a prefill worker."""
        return len(self._moving)

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        """Read and check a request without starting it. Raises as `Engine.add`."""
        return self._intake.prepare(client, message)

    def start(self, prepared: Prepared, kv_transfer_params: dict[str, Any] | None = None) -> None:
        """Queue a prepared request: at once, or when the transfer of its KV blocks has ended."""
        if kv_transfer_params is None:
            self._intake.start(prepared)
            return
        request = self._intake.enter(prepared)
        duration_s = self._transfer_s(request.prompt_tokens - self._sim.cached_tokens(request))
        # This engine computes the last token itself: that of the prompt, or of earlier output.
        request.remote_tokens = request.prompt_tokens - (not request.resumed)
        due_ns = time.monotonic_ns() + round(duration_s * SECOND_NS)
        self._moving[request.request_id] = due_ns, request
        self._copies += 1
        self._copy_s += duration_s

    @property
    def room_tokens(self) -> int | None:
        """No limit."""
        return None

    def cached_tokens(self, prepared: Prepared) -> int:
        """How many leading tokens of the prompt are in the prefix cache now."""
        return self._sim.cached_tokens(prepared.begin[0])

    def known_tokens(self, prepared: Prepared, cached_tokens: int) -> int | None:
        """Return `cached_tokens`: with prefill workers no host cache is simulated."""
        return cached_tokens

    def forget_known(self, request_id: str) -> None:
        """Do nothing: nothing was searched."""

    def take_moved(self) -> None:
        """For the engine: queue the requests whose blocks have arrived."""
        now_ns = time.monotonic_ns()
        there = [rid for rid, (due_ns, _) in self._moving.items() if due_ns <= now_ns]
        for request_id in there:
            self._sim.add(self._moving.pop(request_id)[1])
            self._taken.append(request_id)

    def forget(self, request_id: str) -> None:
        """For the engine: forget an aborted request; its blocks may still be on their way."""
        if self._moving.pop(request_id, None) is not None:
            self._taken.append(request_id)

    def note_started(self, request_id: str) -> None:
        """For the engine: a request has given its first token in this engine."""
        self._started.append(request_id)

    def take_started(self) -> list[str]:
        """Requests that have given their first token in this engine since the last call."""
        started, self._started = self._started, []
        return started

    def take_unneeded(self) -> list[str]:
        """Requests that do not need the blocks of their transfers any more, since the last call."""
        taken, self._taken = self._taken, []
        return taken

    def stats(
        self, *, placements: Mapping[str, int], fallbacks: Mapping[str, int], away: int, kept: int
    ) -> TransferStats:
        """Counters of transfers; the arguments are what the worker itself counts."""
        return report.transfers(
            self._worker,
            prefill=False,
            copies=self._copies,
            copy_s=self._copy_s,
            placements=placements,
            fallbacks=fallbacks,
            away=away,
            kept=kept,
        )


class MockPrefillSide:
    """An `engines.seam.PrefillSide`; it keeps no blocks after the end of a prefill.

    Args:
        worker: index of the worker that runs the engine.
        intake: takes its requests.
    """

    def __init__(self, worker: int, intake: MockIntake) -> None:
        self._worker = worker
        self._intake = intake
        self._ended: list[tuple[str, bytes, str]] = []

    def add(self, job: PushJob, owner: int) -> None:
        """Queue the prefill of a prompt for decode worker `owner`. Raises as `Engine.add`."""
        self._intake.add_prefill(job, owner)

    def note_ended(self, job_id: str) -> None:
        """For the engine: it is done with the prompt of a job."""
        self._ended.append((job_id, json.dumps({"transfer_id": job_id}).encode(), ""))

    def take_ended(self) -> list[tuple[str, bytes, str]]:
        """Prefills that ended since the last call: job, parameters as JSON, reason of failure."""
        ended, self._ended = self._ended, []
        return ended

    def release(self, transfer_ids: list[str]) -> None:
        """Do nothing: no blocks are kept."""

    def owner_gone(self, worker: int) -> None:
        """Do nothing: no blocks are kept."""

    def expire(self, before_ns: int) -> None:
        """Do nothing: no blocks are kept."""

    def stats(self, *, prefill_s: Sequence[float], kept: int) -> TransferStats:
        """Counters of transfers; the arguments are what the worker itself counts."""
        return report.transfers(self._worker, prefill=True, prefill_s=prefill_s, kept=kept)
