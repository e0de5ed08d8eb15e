"""The rule that decides where a prompt is prefilled, as a table."""

from __future__ import annotations

import pytest

from dynamo_cli.config import PlacementRule
from dynamo_cli.worker.where_to_prefill import PlacementReason, decide

IF = PlacementRule(conditional=True, max_local_prefill_length=100)


@pytest.mark.parametrize(
    ("rule", "prompt", "cached", "depth", "holders", "remote", "reason"),
    [
        (PlacementRule(), 5, 0, 99, 1, True, PlacementReason.ALWAYS),
        (PlacementRule(), 5000, 0, 0, 0, False, PlacementReason.NO_PREFILL_WORKER),
        (IF, 5000, 0, 0, 0, False, PlacementReason.NO_PREFILL_WORKER),
        (IF, 100, 0, 0, 1, False, PlacementReason.SHORT),
        (IF, 101, 0, 0, 1, True, PlacementReason.LONG),
        (IF, 500, 400, 0, 1, False, PlacementReason.SHORT),
        (IF, 500, 399, 0, 1, True, PlacementReason.LONG),
        (IF, 500, 0, 1, 1, True, PlacementReason.LONG),
        (IF, 500, 0, 2, 1, False, PlacementReason.QUEUE_FULL),
        (IF, 500, 0, 3, 2, True, PlacementReason.LONG),
        (IF, 500, 0, 4, 2, False, PlacementReason.QUEUE_FULL),
        (PlacementRule(True, 100, 0), 500, 0, 0, 2, False, PlacementReason.QUEUE_FULL),
        (PlacementRule(True, 100, 5), 500, 0, 4, 1, True, PlacementReason.LONG),
        (PlacementRule(True, 0), 1, 0, 0, 1, True, PlacementReason.LONG),
        (PlacementRule(True, 0), 1, 1, 0, 1, False, PlacementReason.SHORT),
    ],
)
def test_the_rule(
    rule: PlacementRule,
    prompt: int,
    cached: int,
    depth: int,
    holders: int,
    remote: bool,
    reason: PlacementReason,
) -> None:
    assert decide(rule, prompt, cached, depth, holders) == (remote, reason)


@pytest.mark.parametrize(
    ("rule", "prompt", "cached", "depth", "known", "remote", "reason"),
    [
        (IF, 500, 0, 0, 400, False, PlacementReason.HOST_CACHE),
        (IF, 500, 0, 0, 399, True, PlacementReason.LONG),
        (IF, 500, 300, 0, 400, False, PlacementReason.HOST_CACHE),
        (IF, 500, 400, 0, 400, False, PlacementReason.SHORT),
        (IF, 500, 0, 2, 500, False, PlacementReason.QUEUE_FULL),
        (PlacementRule(), 500, 0, 0, 500, True, PlacementReason.ALWAYS),
    ],
)
def test_what_the_host_cache_holds_need_not_be_prefilled(
    rule: PlacementRule,
    prompt: int,
    cached: int,
    depth: int,
    known: int,
    remote: bool,
    reason: PlacementReason,
) -> None:
    assert decide(rule, prompt, cached, depth, 1, None, known) == (remote, reason)
