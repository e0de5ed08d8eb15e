"""What it costs to take over a prompt from a prefill worker, compared with a hit in the local
cache.

    python -m tests.benchmarks.handover [--model tiny|demo] [--rounds 30]

Two servers run at the same time: one worker alone, and one worker with one prefill worker. In each
round and for each length, a new prompt goes to both, and then once more to the first, which finds
it in its cache. The times come from the timelines of the requests:

  hit        the processor sends it to the worker -> it has the first token
  hand-over  the prefill worker has the blocks -> the processor has the first token

Prints Markdown: medians over the rounds, and the ratio within a round as median and quartiles.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import urllib.request
import uuid
from typing import Any

from dynamo_cli.models import catalog
from tests.benchmarks.servers import OURS, Running

LENGTHS = (500, 1000, 2000)
"""Lengths of prompts, tokens."""

ENGINE = ("--block-size", "32", "--max-model-len", "4096", "--engine-threads", "1")


def stages_ms(server: Running, prompt: list[int]) -> dict[str, float]:
    """Ask for two tokens; return the stages of the request."""
    name = uuid.uuid4().hex
    body = {"model": "bench", "prompt": prompt, "max_tokens": 2, "temperature": 0}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Content-Type": "application/json", "X-Request-ID": name}
    connection.request("POST", "/v1/completions", json.dumps(body | {"ignore_eos": True}), headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    answer.read()
    connection.close()
    url = f"http://127.0.0.1:{server.port}/dynamo/timeline?request_id={name}"
    while True:  # the timeline is written shortly after the answer
        with urllib.request.urlopen(url) as shown:
            timelines: Any = json.load(shown)["timelines"]
        if timelines:
            stages: dict[str, float] = timelines[0]["stages_ms"]
            return stages


def measure(model: str, rounds: int) -> dict[int, list[tuple[float, float, float]]]:
    """Return the times of hit, hand-over and remote prefill for each length and round, ms."""
    path = catalog.resolve(model, lambda _: None).path
    alone = Running(OURS, path, *ENGINE)
    apart = Running(OURS, path, *ENGINE, "--prefill-workers", "1")
    found: dict[int, list[tuple[float, float, float]]] = {length: [] for length in LENGTHS}
    dice = random.Random(1)
    try:
        alone.wait_answer()
        apart.wait_answer()
        for number in range(rounds + 2):
            for length in LENGTHS:
                prompt = [dice.randrange(10, 900) for _ in range(length)]
                stages_ms(alone, prompt)
                hit = stages_ms(alone, prompt)
                handed = stages_ms(apart, prompt)
                if number >= 2:  # the first rounds warm up
                    found[length].append(
                        (
                            hit["first_token"] - hit["sent"],
                            handed["first_token"] - handed["prefilled"],
                            handed["prefilled"] - handed["leased"],
                        )
                    )
    finally:
        alone.stop()
        apart.stop()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Hand-over against a hit in the local cache.")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, {options.model}, load {os.getloadavg()[0]:.1f}\n")
    print("| prompt tokens | hit, ms | hand-over, ms | hand-over / hit | remote prefill, ms |")
    print("|--:|--:|--:|--:|--:|")
    for length, rows in measure(options.model, options.rounds).items():
        hits, handovers, prefills = zip(*rows, strict=True)
        low, middle, high = statistics.quantiles([handover / hit for hit, handover, _ in rows], n=4)
        cells = (statistics.median(values) for values in (hits, handovers))
        print(
            f"| {length} | "
            + " | ".join(f"{cell:.2f}" for cell in cells)
            + f" | {middle:.2f} ({low:.2f} to {high:.2f}) | {statistics.median(prefills):.1f} |"
        )


if __name__ == "__main__":
    main()
