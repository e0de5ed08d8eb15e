"""The rule that decides where a prompt is prefilled, as a table."""

from __future__ import annotations

import pytest

from dynamo_cli.config import PlacementRule
from dynamo_cli.worker.where_to_prefill import Reason, decide

IF = PlacementRule(conditional=True, max_local_prefill_length=100)


@pytest.mark.parametrize(
    ("rule", "prompt", "cached", "depth", "holders", "remote", "reason"),
    [
        (PlacementRule(), 5, 0, 99, 1, True, Reason.ALWAYS),
        (PlacementRule(), 5000, 0, 0, 0, False, Reason.NO_PREFILL_WORKER),
        (IF, 5000, 0, 0, 0, False, Reason.NO_PREFILL_WORKER),
        (IF, 100, 0, 0, 1, False, Reason.SHORT),
        (IF, 101, 0, 0, 1, True, Reason.LONG),
        (IF, 500, 400, 0, 1, False, Reason.SHORT),
        (IF, 500, 399, 0, 1, True, Reason.LONG),
        (IF, 500, 0, 1, 1, True, Reason.LONG),
        (IF, 500, 0, 2, 1, False, Reason.QUEUE_FULL),
        (IF, 500, 0, 3, 2, True, Reason.LONG),
        (IF, 500, 0, 4, 2, False, Reason.QUEUE_FULL),
        (PlacementRule(True, 100, 0), 500, 0, 0, 2, False, Reason.QUEUE_FULL),
        (PlacementRule(True, 100, 5), 500, 0, 4, 1, True, Reason.LONG),
        (PlacementRule(True, 0), 1, 0, 0, 1, True, Reason.LONG),
        (PlacementRule(True, 0), 1, 1, 0, 1, False, Reason.SHORT),
    ],
)
def test_the_rule(
    rule: PlacementRule,
    prompt: int,
    cached: int,
    depth: int,
    holders: int,
    remote: bool,
    reason: Reason,
) -> None:
    assert decide(rule, prompt, cached, depth, holders) == (remote, reason)


@pytest.mark.parametrize(
    ("rule", "prompt", "cached", "depth", "known", "remote", "reason"),
    [
        (IF, 500, 0, 0, 400, False, Reason.HOST_CACHE),
        (IF, 500, 0, 0, 399, True, Reason.LONG),
        (IF, 500, 300, 0, 400, False, Reason.HOST_CACHE),
        (IF, 500, 400, 0, 400, False, Reason.SHORT),
        (IF, 500, 0, 2, 500, False, Reason.QUEUE_FULL),
        (PlacementRule(), 500, 0, 0, 500, True, Reason.ALWAYS),
    ],
)
def test_what_the_host_cache_holds_need_not_be_prefilled(
    rule: PlacementRule,
    prompt: int,
    cached: int,
    depth: int,
    known: int,
    remote: bool,
    reason: Reason,
) -> None:
    assert decide(rule, prompt, cached, depth, 1, None, known) == (remote, reason)
