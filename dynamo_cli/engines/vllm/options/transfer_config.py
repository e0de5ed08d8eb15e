"""vLLM's KV transfer configuration, for disaggregation and for the host cache. Pure."""

from __future__ import annotations

from typing import Any

from dynamo_cli.config import EngineConfig

HOST_CACHE_MODULE = "dynamo_cli.engines.vllm.host_cache.connector"


def transfer_config(config: EngineConfig) -> dict[str, Any] | None:
    """vLLM's ``--kv-transfer-config`` for this engine; None if its KV blocks stay where they are.

    That is the case without disaggregation and without a host cache.
    """
    if config.host_cache is not None and not uses_nixl(config):
        return {
            "kv_connector": "HostCacheConnector",
            "kv_connector_module_path": HOST_CACHE_MODULE,
            "kv_role": "kv_both",
            "kv_connector_extra_config": {
                "path": config.host_cache.path,
                "size_bytes": config.host_cache.size_bytes,
                "min_tokens": config.host_cache.min_tokens,
            },
        }
    if not config.kv_role:
        return None
    return {
        "kv_connector": "NixlConnector",
        "kv_role": config.kv_role,
        "kv_load_failure_policy": "recompute",
        "kv_buffer_device": "cuda" if config.devices else "cpu",
    }


def uses_nixl(config: EngineConfig) -> bool:
    """Whether NIXL transfers prefilled blocks from engine to engine, and not the host cache."""
    return bool(config.kv_role) and config.kv_transfer == "nixl"
