"""Keeps blocks of two LoRA adapters apart that have the same name and path, one after the other.

vLLM hashes a block with the name and the path of its adapter, and its KV events have only the name.
But an adapter can be unloaded, and loaded again from the same folder when the files there have
changed. Then vLLM would find blocks of the earlier adapter in its prefix cache or in the host
cache. Here the adapter's number counts too, which the frontend never gives twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.v1.core import kv_cache_utils

_of_vllm: Callable[[Any], list[tuple[Any, ...]]] = kv_cache_utils._gen_lora_extra_hash_keys


def install() -> None:
    """In this process, hash blocks with the number of their adapter. Engines and processors must
    both do this, since they compute the same hashes."""
    kv_cache_utils._gen_lora_extra_hash_keys = _with_number


def _with_number(request: Any) -> list[tuple[Any, ...]]:
    """Like vLLM's own; the second word of a key, here the name, is what KV events have of it."""
    return [
        (kind, (name, request.lora_request.lora_int_id), *path)
        for kind, name, *path in _of_vllm(request)
    ]
