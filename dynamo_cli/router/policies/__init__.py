"""Policies: a request and candidates in, one `Choice` out. Pure; lower cost wins."""

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
    """The policy that the configuration names; `dice` makes its choices repeatable."""
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
