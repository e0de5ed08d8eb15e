"""The processor's hashes are those that a real engine's events give, whatever goes into them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from dynamo_cli.models import catalog
from dynamo_cli.models.tiny import SHAPE

RANK = 8


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the tiny model, as PEFT would write it."""
    folder: Path = tmp_path_factory.mktemp("adapter")
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
    dice = np.random.default_rng(0)
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


@pytest.mark.engine
def test_hashes_of_requests_equal_those_of_events(adapter: Path) -> None:
    model = catalog.resolve("tiny", lambda _: None).path
    done = subprocess.run(
        [sys.executable, "-m", "tests.kv.engine_driver", str(model), str(adapter), "7"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    result = json.loads(line.removeprefix("RESULT"))
    assert result["wrong"] == []
    assert result["hits"] > 5_000  # there was something to predict
    assert result["removed"] > 200  # and the cache was too small for all of it
