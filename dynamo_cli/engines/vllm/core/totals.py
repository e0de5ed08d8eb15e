"""Counters over the life of an engine."""

from __future__ import annotations

import time

from vllm.v1.engine import EngineCoreOutputs

from dynamo_cli.messages.telemetry import WorkerStats


class Totals:
    """Sums of what the steps of an engine report."""

    def __init__(self) -> None:
        self.steps = 0
        self.queries = 0
        self.hits = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.preemptions = 0

    def count_loaded(self, tokens: int) -> None:
        """Count tokens of a prompt that came from the host cache as hits."""
        self.hits += tokens

    def count(self, batch: EngineCoreOutputs) -> None:
        """Add the outputs of a step."""
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
        )
