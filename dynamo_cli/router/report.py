"""Makes the router's telemetry message from its state. Pure."""

from __future__ import annotations

from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.router.state import RouterState


def router_stats(state: RouterState, refused_sends: int) -> RouterStats:
    """Return the totals since this router process started, and its current load figures."""
    books = state.ledger.books
    return RouterStats(
        policy=state.config.policy,
        decisions=dict(state.decisions),
        active_requests={worker: book.active_requests for worker, book in books.items()},
        refused_sends=refused_sends,
        prefill_blocks={worker: book.prefill_blocks for worker, book in books.items()},
        decode_blocks={worker: book.occupied_blocks for worker, book in books.items()},
        waiting_requests=state.waiting_requests,
        index_blocks={worker: state.caches.index.blocks[worker] for worker in books},
        index_entries=len(state.caches.index),
        index_bytes=state.caches.index.memory_bytes() + state.host_cache.index.memory_bytes(),
        event_blocks=dict(state.caches.events + state.caches.unknown_events()),
        event_lag_us=state.caches.lag_ns / 1000,
        resyncs=dict(state.caches.resyncs),
        prompt_tokens=state.prompt_tokens,
        predicted_tokens=state.predicted_tokens,
        measured_tokens=state.measured_tokens,
        over_predicted_requests=state.over_predicted_requests,
        released=dict(state.ledger.released),
        silent_workers=state.silent_workers(),
        decision_us=list(state.decision_us),
        decision_total_us=state.decision_total_us,
        asked_tokens=state.repeats.asked_tokens,
        repeated_tokens=state.repeats.repeated_tokens,
        forgotten_blocks=state.repeats.forgotten_blocks,
        entries=len(state.ledger.entries),
        promised_blocks=len(state.ledger.promised),
    )
