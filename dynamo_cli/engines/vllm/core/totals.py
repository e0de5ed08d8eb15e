"""Counters over the life of an engine."""

from __future__ import annotations

import time
from bisect import bisect_left

from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.spec_decode.metrics import SpecDecodingStats

from dynamo_cli.messages.telemetry import STEP_TOKENS_BOUNDS, EngineCounts, WorkerStats


class VllmTotals:
    """Sums of what the steps of an engine report."""

    def __init__(self) -> None:
        self.steps = 0
        self.queries = 0
        self.hits = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.preemptions = 0
        self.deferred = 0
        self._in_step = self._step_tokens_sum = 0
        self._step_tokens = [0] * (len(STEP_TOKENS_BOUNDS) + 1)
        self._local_cached = self._external_cached = 0
        self._drafts = EngineCounts()

    def count_loaded(self, tokens: int) -> None:
        """Count tokens of a prompt that came from the host cache as hits."""
        self.hits += tokens

    def count(self, batch: EngineCoreOutputs) -> None:
        """Add the outputs of a step for one processor."""
        before = self.output_tokens + self.prompt_tokens
        for output in batch.outputs:
            self.output_tokens += len(output.new_token_ids)
            if (prefill := output.prefill_stats) is not None and prefill.num_prompt_tokens:
                self.prompt_tokens += prefill.num_prompt_tokens
                self._local_cached += prefill.num_local_cached_tokens
                self._external_cached += prefill.num_external_cached_tokens
        self._in_step += self.output_tokens + self.prompt_tokens - before
        if (stats := batch.scheduler_stats) is not None:
            self.steps += 1
            self.queries += stats.prefix_cache_stats.queries
            self.hits += stats.prefix_cache_stats.hits
            self.preemptions += stats.prefix_cache_stats.preempted_requests
            self.deferred = stats.num_skipped_waiting_reqs
            if stats.spec_decoding_stats is not None:
                self._drafts += _drafts(stats.spec_decoding_stats)

    def end_step(self) -> None:
        """Note that all outputs of a step have been counted."""
        if self._in_step:
            self._step_tokens[bisect_left(STEP_TOKENS_BOUNDS, self._in_step)] += 1
            self._step_tokens_sum += self._in_step
            self._in_step = 0

    @property
    def _counts(self) -> EngineCounts:
        return self._drafts + EngineCounts(
            tuple(self._step_tokens),
            self._step_tokens_sum,
            self._local_cached,
            self._external_cached,
        )

    def message(
        self,
        worker: int,
        running: int,
        waiting: int,
        kv_usage: float,
        refused_sends: int,
        kept_requests: int,
    ) -> WorkerStats:
        """The totals together with the load now; arguments as the fields of `WorkerStats`."""
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
            kept_requests=kept_requests,
            num_deferred_reqs=min(self.deferred, waiting),
            counts=self._counts,
        )


def _drafts(stats: SpecDecodingStats) -> EngineCounts:
    """What a step of speculative decoding did."""
    return EngineCounts(
        drafts=stats.num_drafts,
        draft_tokens=stats.num_draft_tokens,
        accepted_tokens=stats.num_accepted_tokens,
        accepted_by_position=tuple(stats.num_accepted_tokens_per_pos),
    )
