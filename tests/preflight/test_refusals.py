"""Mistakes that only vLLM detects are reported in one sentence, whatever it raises."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamo_cli.models import catalog
from tests.preflight import folders
from tests.support.driver import run

pytestmark = pytest.mark.engine

OPTIONS: dict[str, tuple[str, str]] = {
    # options for vLLM: the error class, and part of its message
    "--stream-interval 0": (
        "UsageError",
        "stream_interval: Input should be greater than or equal to 1.",
    ),
    "--gpu-memory-utilization 2": (
        "UsageError",
        "gpu_memory_utilization: Input should be less than or equal to 1.",
    ),
    "--hf-overrides {bad": ("UsageError", "Input should be a valid dictionary"),
    "-cc.mode nope": ("UsageError", "mode"),
    "--chat-template /nope": ("UsageError", "doesn't exist"),
    "--reasoning-parser nope": ("UsageError", "--reasoning-parser cannot be 'nope'"),
    "--tool-call-parser nope": ("UsageError", "--tool-call-parser cannot be 'nope'"),
    "--tool-parser-plugin {broken.py}": ("UsageError", "ZeroDivisionError: division by zero"),
    "--tokenizer /nope": ("ModelError", "/nope"),
    "--generation-config /missing": ("ModelError", "/missing"),
    "--quantization nope": ("UsageError", "Unknown quantization method: nope"),
    "--max-model-len 1000000": ("UsageError", "is greater than the derived max_model_len"),
    "--worker-cls nope.Nope": ("ModelError", "No module named 'nope'"),
    "--logits-processors a.b:C": ("StartError", "C: No module named 'a'"),
}
FOLDERS: dict[str, tuple[folders.Change, str, str]] = {
    "a broken tokenizer": (folders.write("tokenizer.json", "{bad"), "ModelError", "Expecting"),
    "no tokenizer": (folders.remove("tokenizer.json"), "ModelError", "tokenizer"),
    "a config that is a list": (folders.write("config.json", "[]"), "ModelError", "'list' object"),
    "an unknown architecture": (
        folders.config(architectures=["NopeForCausalLM"]),
        *("UsageError", "architectures: too many to list here."),
    ),
    "an unknown type": (folders.config(model_type="nope"), "UsageError", "model type `nope`"),
    "weights cut short": (
        folders.cut("model.safetensors", -10),
        *("ModelError", "not fully covered"),
    ),
    "weights of another size": (folders.config(hidden_size=128), "StartError", "must match"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The outcome of each case, from a single import of vLLM."""
    root = tmp_path_factory.mktemp("models")
    tiny = catalog.resolve("tiny", lambda _: None).path
    plugin = root / "broken.py"
    plugin.write_text("1 / 0\n")
    cases = [
        {"name": args, "path": tiny, "args": args.replace("{broken.py}", str(plugin)).split()}
        for args in OPTIONS
    ]
    for name, (change, _, _) in FOLDERS.items():
        cases.append({"name": name, "path": str(_changed(tiny, root / name, change)), "args": []})
    given = "".join(json.dumps(case) + "\n" for case in cases)
    done = run("tests.preflight.refusals_driver", given=given)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"name"')]
    return {outcome["name"]: outcome for outcome in found}


def _changed(model: str, folder: Path, change: Callable[[Path], Any]) -> Path:
    shutil.copytree(model, folder)
    change(folder)
    return folder


@pytest.mark.parametrize(("args", "expected"), OPTIONS.items(), ids=OPTIONS)
def test_an_option(
    args: str, expected: tuple[str, str], outcomes: dict[str, dict[str, Any]]
) -> None:
    _check(outcomes[args], *expected)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder(name: str, outcomes: dict[str, dict[str, Any]]) -> None:
    _, error, says = FOLDERS[name]
    _check(outcomes[name], error, says)
    assert name in outcomes[name]["message"]  # the folder has this name


def _check(outcome: dict[str, Any], error: str, says: str) -> None:
    assert outcome["error"] == error, outcome
    assert says in outcome["message"]
    assert "\n" not in outcome["message"]
    assert len(outcome["message"]) < 1500
    assert outcome["code"] == (1 if error == "StartError" else 2)
