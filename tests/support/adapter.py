"""A LoRA adapter of the tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from dynamo_cli.models.tiny import SHAPE

RANK = 8


def write(folder: Path, seed: int = 0) -> Path:
    """Random weights as PEFT would write them; returns the folder."""
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    folder.joinpath("adapter_config.json").write_text(json.dumps(config))
    dice = np.random.default_rng(seed)
    widths = {"q_proj": SHAPE.heads, "v_proj": SHAPE.kv_heads}
    tensors = {}
    for layer in range(SHAPE.layers):
        for module, heads in widths.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            for part, shape in (
                ("lora_A", (RANK, SHAPE.hidden)),
                ("lora_B", (heads * SHAPE.head_dim, RANK)),
            ):
                tensors[f"{name}.{part}.weight"] = dice.normal(size=shape).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
