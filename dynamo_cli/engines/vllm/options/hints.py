"""Suggestions for options that do not exist. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_OPPOSITES = ("--disable-", "--no-")

_SHORT = {
    "-p": "--http-port",
    "-m": "--model",
    "-V": "--version",
    "-v": "--version, or --log-level debug",
    "-w": "--workers",
    "-c": "--config, or --max-model-len",
    "-H": "--host",
    "-k": "--api-key",
    "-t": "--worker-tp",
    "--tp": "--worker-tp",
    "--tp-size": "--worker-tp",
    "--dp": "--workers",
    "--pp": "--pipeline-parallel-size",
    "--ctx-size": "--max-model-len",
    "--context-length": "--max-model-len",
    "--model-path": "--model",
    "--model-name": "--served-model-name",
    "--tool-parser": "--tool-call-parser",
    "--mem-fraction-static": "--gpu-memory-utilization",
    "--speculative-model": "--spec-model",
    "--num-speculative-tokens": "--spec-tokens",
    "-np": "--max-num-seqs",
    "--parallel": "--max-num-seqs",
    "--threads": "--engine-threads",
    "--num-shard": "--worker-tp",
    "--max-input-length": "--max-model-len",
    "--max-input-tokens": "--max-model-len",
    "--max-total-tokens": "--max-model-len",
    "--chunked-prefill-size": "--max-num-batched-tokens",
    "--max-running-requests": "--max-num-seqs",
    "--max-concurrent-requests": "--max-num-seqs, or --max-inflight",
    "--disable-radix-cache": "--no-enable-prefix-caching",
    "--cuda-memory-fraction": "--gpu-memory-utilization",
    "--verbose": "--log-level debug",
    "--prefill": "--prefill-workers",
    "--help-all": "--help",
}
"""Names that other tools use, and our options for the same."""

_ALL_LAYERS = "All layers are on the GPU; --cpu-offload-gb keeps some weights in the CPU's memory"
_NO_MAP = "Weights are in the engine's memory in any case; leave it out"

_GONE = {
    "--task": "vLLM sees from the model what it is for; --runner and --convert override that",
    "--device": "The build of vLLM decides; CUDA_VISIBLE_DEVICES chooses among GPUs",
    "--swap-space": "vLLM does not swap any more; leave it out",
    "--disable-log-requests": "Requests are not logged unless --enable-log-requests is given; "
    "leave it out, or --no-access-log for no line at all",
    "--enable-reasoning": "--reasoning-parser alone is enough",
    "--guided-decoding-backend": "It is --structured-outputs-config.backend now",
    "--rope-scaling": "It is --hf-overrides '{\"rope_parameters\": ...}' now",
    "--rope-theta": "It is --hf-overrides '{\"rope_parameters\": ...}' now",
    "--num-scheduler-steps": "vLLM has no such steps any more; leave it out",
    "--use-v2-block-manager": "There is no other one any more; leave it out",
    "-ngl": _ALL_LAYERS,
    "--n-gpu-layers": _ALL_LAYERS,
    "--gpu-layers": _ALL_LAYERS,
    "--flash-attn": "vLLM chooses; --attention-backend overrides it",
    "-fa": "vLLM chooses; --attention-backend overrides it",
    "--mlock": _NO_MAP,
    "--no-mmap": _NO_MAP,
    "--n-predict": "Clients say it, with max_tokens",
    "--enable-metrics": "Metrics are always there, at /metrics",
}
"""Names that vLLM had in earlier releases or that other tools have, and what to do instead."""


LONG_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
"""What word processors and web pages make of the dashes of an option."""


def for_long_dash(word: str) -> str:
    """An error for a word that begins with a long dash; empty if it does not."""
    if not word.startswith(tuple(LONG_DASHES)):
        return ""
    return f"{word!r} begins with a long dash; write --{word.lstrip(LONG_DASHES + '-')}."


def for_unknown(name: str, known: Sequence[str]) -> str:
    """A sentence with a hint, after a space; empty if there is none.

    Args:
        name: name of an option that does not exist.
        known: names of all options that exist.
    """
    if why := _GONE.get(name):
        return f" {why}."
    if meant := _SHORT.get(name) or _opposite(name, known):
        return f" Did you mean {meant}?"
    if name in known:
        return " It stands after a lone --, where no options are read."
    # A name with similar letters may mean the opposite, so it is not suggested.
    alike = [other for other in known if _says_no(other) == _says_no(name)]
    near = difflib.get_close_matches(name, alike, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def _opposite(name: str, known: Sequence[str]) -> str:
    """``--disable-x`` -> ``--no-x`` or ``--no-enable-x``, and the like; empty if none exists."""
    start = next((start for start in _OPPOSITES if name.startswith(start)), "")
    if not start:
        return ""
    rest = name.removeprefix(start)
    names = (f"--no-enable-{rest}", f"--no-{rest}", f"--disable-{rest}")
    return next((other for other in names if other in known), "")


def _says_no(name: str) -> bool:
    return name.startswith(_OPPOSITES)
