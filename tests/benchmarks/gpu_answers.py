"""Whether answers stay the same when the blocks of their prompts come back from the host cache.

    python -m tests.benchmarks.gpu_answers --model FOLDER [--prompts 40] [--tokens 1500]
        [--cache-gb 4.5] [--host-cache 16GiB] [--servers kv,host]

For GPUs, where the tests do not run. The engine's cache is so small that it has forgotten a prompt
when the prompt comes again: `kv` then computes it again, `host` loads its blocks. Weights are
random, so a wrong block changes an answer. Servers as in `tests.benchmarks.gpus`. Prints a line per
server; the exit code is 1 if an answer changed, or if `host` found less than nine tenths.
"""

from __future__ import annotations

import argparse
import json
import random
import urllib.request
from typing import Any, NamedTuple

from tests.benchmarks.gpu_server import GpuServer

ANSWER = 24
"""Tokens."""

LEAST_FOUND = 0.9


class Answer(NamedTuple):
    """Tokens of an answer, the log probability of the first one, and what was cached."""

    tokens: list[str]
    first: float
    cached_tokens: int


def ask(server: GpuServer, prompt: list[int]) -> Answer:
    """Ask for the most likely tokens after a prompt."""
    wanted = {"max_tokens": ANSWER, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    body = json.dumps({"model": "bench", "prompt": prompt} | wanted).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/completions", body, headers)
    with urllib.request.urlopen(request, timeout=120) as answered:
        answer: Any = json.load(answered)
    logprobs = answer["choices"][0]["logprobs"]
    details = answer["usage"].get("prompt_tokens_details") or {}
    return Answer(logprobs["tokens"], logprobs["token_logprobs"][0], details["cached_tokens"])


def compared(name: str, options: argparse.Namespace) -> bool:
    """Ask a server for all answers twice, and print how alike they are; returns whether it is
    well."""
    dice = random.Random(5)
    prompts = [
        [dice.randrange(options.largest) for _ in range(options.tokens)]
        for _ in range(options.prompts)
    ]
    server = GpuServer(name, 1, options)
    try:
        server.announce(name)
        first = [ask(server, prompt) for prompt in prompts]
        again = [ask(server, prompt) for prompt in prompts]
    finally:
        server.stop()
    pairs = list(zip(first, again, strict=True))
    same = sum(one.tokens == other.tokens for one, other in pairs)
    apart = max(abs(one.first - other.first) for one, other in pairs)
    found = sum(answer.cached_tokens for answer in again) / (options.tokens * options.prompts)
    print(
        f"{name}: {same} of {len(pairs)} answers are the same; {100 * found:.0f} % of the prompt "
        f"tokens were found the second time; log probabilities differ by up to {apart:.2g}",
        flush=True,
    )
    return same == len(pairs) and (name == "kv" or found >= LEAST_FOUND)


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers with blocks from the host cache.")
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--servers", default="kv,host")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=1500, help="of each prompt")
    parser.add_argument("--largest", type=int, default=100_000, help="largest id of a token")
    parser.add_argument("--cache-gb", type=float, default=4.5, help="KV cache of the engine")
    parser.add_argument("--host-cache", default="16GiB")
    parser.add_argument("--utilization", type=float, default=0.3, help="free part at a start")
    options = parser.parse_args()
    results = [compared(name, options) for name in options.servers.split(",")]
    raise SystemExit(not all(results))


if __name__ == "__main__":
    main()
