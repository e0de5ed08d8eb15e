"""vLLM's KV transfer configuration, for disaggregation. Pure."""

from __future__ import annotations

from typing import Any

from dynamo_cli.config import EngineConfig

CONNECTOR_MODULE = "dynamo_cli.engines.vllm.transfer.connector"


def transfer_config(config: EngineConfig) -> dict[str, Any]:
    """vLLM's ``--kv-transfer-config`` for the engine of a prefill worker or a decode worker."""
    common = {"kv_role": config.kv_role, "kv_load_failure_policy": "recompute"}
    if config.kv_transfer == "nixl":
        device = "cuda" if config.devices else "cpu"
        return common | {"kv_connector": "NixlConnector", "kv_buffer_device": device}
    return common | {
        "kv_connector": "ShmConnector",
        "kv_connector_module_path": CONNECTOR_MODULE,
        "kv_connector_extra_config": {"arena_bytes": config.kv_arena_bytes},
    }
