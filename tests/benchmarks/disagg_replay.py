"""What disaggregation does to short chats on eight simulated engines; `disagg` uses two real ones.

    python -m tests.benchmarks.disagg_replay [--profile gpu-8b] [--rounds 3] [--seconds 120]

Short chats arrive at random times, and so do long prompts that share nothing and ask for a few
tokens, at several rates. Either eight engines do everything, with steps of up to 8,192 or of up to
1,024 tokens; or some of them only prefill, every prompt or only long ones (conditional). In each
round all setups get the same trace, with the policy `least-loaded`.

Prints Markdown: TTFT of both classes, and the gaps between tokens, nearly all of which are of
short chats (medians over the rounds); then ratios to the aggregated engines within each round.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
from typing import NamedTuple

import msgspec

from dynamo_cli.config import PlacementRule
from dynamo_cli.engines.mock.profile import Profile, load
from dynamo_cli.lab.replay.loop import Replay
from dynamo_cli.lab.replay.routers import SERVED
from dynamo_cli.lab.report import Outcome, quantile
from dynamo_cli.lab.trace.trace import Trace, TraceRequest

ENGINES = 8
CHATS_PER_S = 40.0
CHAT_TOKENS, ANSWER_TOKENS = 200, 200
LONG_TOKENS, SHORT_ANSWER_TOKENS = 8000, 8
LONGS_PER_S = (4.0, 10.0, 16.0)
SMALL_STEP = 1024
FIRST = "8 aggregated"


class Setup(NamedTuple):
    """How eight engines are used."""

    prefill: int = 0
    conditional: bool = False
    step_tokens: int = 8192


SETUPS = {
    FIRST: Setup(),
    f"8 aggregated, steps of {SMALL_STEP}": Setup(step_tokens=SMALL_STEP),
    "2P6D": Setup(2),
    "4P4D": Setup(4),
    "2P6D conditional": Setup(2, conditional=True),
    "4P4D conditional": Setup(4, conditional=True),
}
Figures = dict[str, float]


def trace(seed: int, seconds: float, longs_per_s: float, block_size: int) -> Trace:
    """Make a trace of both classes at random times; nothing is shared."""
    dice = random.Random(seed)
    requests = []
    for per_s, tokens, answer in (
        (CHATS_PER_S, CHAT_TOKENS, ANSWER_TOKENS),
        (longs_per_s, LONG_TOKENS, SHORT_ANSWER_TOKENS),
    ):
        times = itertools.accumulate(iter(lambda per_s=per_s: dice.expovariate(per_s), None))
        for at_s in itertools.takewhile(lambda at_s: at_s < seconds, times):
            hashes = tuple(dice.getrandbits(63) for _ in range(tokens // block_size))
            requests.append(TraceRequest(round(at_s * 1e9), tokens, answer, hashes))
    requests.sort(key=lambda request: request.arrival_ns)
    return Trace("mix", block_size, tuple(requests))


def figures(setup: Setup, mix: Trace, profile: Profile) -> Figures:
    result = Replay(
        mix,
        SERVED["least-loaded"],
        msgspec.structs.replace(profile, max_num_batched_tokens=setup.step_tokens),
        ENGINES - setup.prefill,
        prefill_workers=setup.prefill,
        rule=PlacementRule(conditional=setup.conditional),
    ).run()
    short = [one for one in result.outcomes if one.prompt_tokens == CHAT_TOKENS]
    long = [one for one in result.outcomes if one.prompt_tokens == LONG_TOKENS]
    assert len(short) + len(long) == len(mix.requests)
    return {
        "short TTFT p50": first_token_ms(short, 0.5),
        "short TTFT p99": first_token_ms(short, 0.99),
        "ITL p50": 1000 * (result.gaps.quantile_s(0.5) or 0.0),
        "ITL p99": 1000 * (result.gaps.quantile_s(0.99) or 0.0),
        "long TTFT p50": first_token_ms(long, 0.5),
        "long TTFT p99": first_token_ms(long, 0.99),
    }


def first_token_ms(outcomes: list[Outcome], share: float) -> float:
    return 1000 * quantile(sorted(outcome.ttft_s for outcome in outcomes), share)


def table(rounds: list[dict[str, Figures]]) -> None:
    names = list(rounds[0][FIRST])
    print("| | " + " | ".join(f"{name}, ms" for name in names) + " |")
    print("|---|" + "--:|" * len(names))
    for setup in SETUPS:
        cells = (statistics.median(one[setup][name] for one in rounds) for name in names)
        print(f"| {setup} | " + " | ".join(f"{cell:.4g}" for cell in cells) + " |")
    for setup in list(SETUPS)[1:]:
        cells = (ratio(rounds, setup, name) for name in names)
        print(f"| {setup} / aggregated | " + " | ".join(cells) + " |")


def ratio(rounds: list[dict[str, Figures]], setup: str, name: str) -> str:
    ratios = [one[setup][name] / one[FIRST][name] for one in rounds]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description="Disaggregation on eight simulated engines.")
    parser.add_argument("--profile", default="gpu-8b")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    profile = load(options.profile)
    for longs_per_s in LONGS_PER_S:
        rounds = []
        for seed in range(options.rounds):
            mix = trace(seed, options.seconds, longs_per_s, profile.block_size)
            rounds.append({name: figures(one, mix, profile) for name, one in SETUPS.items()})
        print(f"\n{options.profile}, {longs_per_s:g} long prompts per second\n")
        table(rounds)


if __name__ == "__main__":
    main()
