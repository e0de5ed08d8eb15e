"""The rules by which a worker is chosen. Pure.

A request and the loads of the workers that can take it come in; a `Choice` with the cost of each
goes out, and the lowest cost wins. Open `base.py` first.
"""

from __future__ import annotations

import random
from functools import partial

from dynamo_cli.config import RouterConfig
from dynamo_cli.router.policies.base import Choice, Policy, Request, WorkerLoad
from dynamo_cli.router.policies.blind import choose_least_loaded, choose_random, choose_round_robin
from dynamo_cli.router.policies.kv import KvPolicy

BLIND: dict[str, Policy] = {
    "round-robin": choose_round_robin,
    "least-loaded": choose_least_loaded,
}


def policy_of(config: RouterConfig, dice: random.Random | None = None) -> Policy:
    """Return the policy that the configuration names; with a seeded `dice`, choices repeat."""
    dice = dice or random.Random()
    if config.policy in BLIND:
        return BLIND[config.policy]
    if config.policy == "random":
        return partial(choose_random, pick=dice.randrange)
    return KvPolicy(
        config.kv_cost, config.kv_overlap_weight, config.kv_temperature, dice=dice.random
    )


__all__ = [
    "Choice",
    "KvPolicy",
    "Policy",
    "Request",
    "WorkerLoad",
    "choose_least_loaded",
    "choose_random",
    "choose_round_robin",
    "policy_of",
]
