"""Makes the record of a routing decision: what was decided about a query, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo_cli.messages.routing import REASON_NO_WORKER, Candidate, RouteQuery, RoutingDecision
from dynamo_cli.router.policies import Choice, WorkerLoad


def decided(
    query: RouteQuery,
    choice: Choice | None,
    *,
    policy: str,
    block_size: int,
    winner: WorkerLoad | None,
    since_ns: int,
    now_ns: int,
    prefill_worker: int | None,
    engine_order: int,
) -> RoutingDecision:
    """Return the record of the decision on a query.

    Args:
        choice: what the policy chose; None if no worker may take the request.
        policy: name of the policy.
        block_size: tokens per block; 0 if no worker was up yet.
        winner: the load of the chosen worker.
        since_ns, now_ns: when the query came, and the time now.
        prefill_worker, engine_order: as in `RouteAnswer`.
    """
    worker = choice.worker if choice else None
    candidates = choice.candidates if choice else []
    chosen = next((one for one in candidates if one.worker == worker), None)
    return RoutingDecision(
        request_id=query.request_id,
        api_id=query.api_id,
        worker=worker,
        policy=policy,
        reason=choice.reason if choice else REASON_NO_WORKER,
        prompt_tokens=query.prompt_tokens,
        required_blocks=blocks_of(query.prompt_tokens, block_size),
        overlap_blocks=chosen.overlap_blocks if chosen else 0,
        block_size=block_size,
        candidates=candidates,
        margin=_margin(candidates, chosen),
        waited_us=(now_ns - since_ns) / 1000,
        decision_us=0.0,
        decided_ns=now_ns,
        prefill_worker=prefill_worker,
        session=query.session,
        engine_order=engine_order,
        moved=query.moved,
        moved_from=query.moved_from,
        output_tokens=query.output_tokens,
        host_blocks=winner.host_blocks if winner else 0,
        disk_blocks=winner.disk_blocks if winner else 0,
    )


def blocks_of(tokens: int, block_size: int) -> int:
    """Number of blocks that hold these tokens; 0 if no block size is known."""
    return -(-tokens // block_size) if block_size else 0


def _margin(candidates: Sequence[Candidate], winner: Candidate | None) -> float:
    others = [one.cost for one in candidates if one is not winner]
    return min(others) - winner.cost if winner and others else 0.0
