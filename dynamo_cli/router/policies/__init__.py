"""Policies: a request and candidates in, one `Choice` out. Pure; lower cost wins."""

from __future__ import annotations

from dynamo_cli.config import RouterConfig
from dynamo_cli.router.policies.base import Choice, Policy, Request, WorkerLoad
from dynamo_cli.router.policies.blind import choose_least_loaded, choose_random, choose_round_robin
from dynamo_cli.router.policies.kv import KvPolicy

BLIND: dict[str, Policy] = {
    "random": choose_random,
    "round-robin": choose_round_robin,
    "least-loaded": choose_least_loaded,
}


def policy_of(config: RouterConfig) -> Policy:
    """The policy that the configuration names."""
    if config.policy in BLIND:
        return BLIND[config.policy]
    return KvPolicy(config.kv_cost, config.kv_overlap_weight, config.kv_temperature)


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
