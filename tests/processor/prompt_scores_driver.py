"""Converts log probabilities of prompts in pieces and in one go; see `test_prompt_scores`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoTokenizer
from vllm.v1.engine import EngineCoreOutput
from vllm.v1.engine.logprobs import LogprobsProcessor
from vllm.v1.outputs import LogprobsTensors

from dynamo_cli.engines.vllm.front.prompt_scores import PIECE, PromptScores
from dynamo_cli.models import tiny
from tests.support.driver import tell

WIDTH = 5
SHORT, LONG = PIECE // WIDTH, 10 * PIECE
"""Tokens of prompts: one that is converted at once, and one that is not."""


def _scores(tokens: int, text: list[int]) -> LogprobsTensors:
    ids = torch.arange(tokens * WIDTH).reshape(tokens, WIDTH) % 900
    ids[:, 0] = torch.tensor([text[at % len(text)] for at in range(tokens)])
    ranks = torch.arange(tokens) % 7
    return LogprobsTensors(ids, -torch.arange(tokens * WIDTH).reshape(ids.shape) / 8, ranks)


def _state(tokenizer: Any) -> Any:
    return SimpleNamespace(
        logprobs_processor=LogprobsProcessor(tokenizer, None, [None], None, None, WIDTH - 1)
    )


async def main() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        tiny.write(Path(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder)
    # Characters of several tokens: the text of a token depends on those before it.
    text = tokenizer.encode("wörld \N{SNOWMAN} \N{GRINNING FACE} x")
    states = {name: _state(tokenizer) for name in ("short", "long", "other", "whole")}
    passed: list[EngineCoreOutput] = []
    scores = PromptScores(passed.extend, states)

    def output(name: str, tokens: int) -> EngineCoreOutput:
        more = _scores(tokens, text) if tokens else None
        return EngineCoreOutput(name, [1], new_prompt_logprobs_tensors=more)

    told: dict[str, Any] = {"held": [scores.holds(output("short", SHORT))]}
    told["held"] += [scores.holds(output(*one)) for one in (("long", LONG), ("other", SHORT + 1))]
    told["held"] += [scores.holds(output("gone", LONG)), scores.holds(output("long", 0))]
    told["held"] += [scores.holds(output("short", 0))]
    turns = 0
    while scores.waiting:
        turns += 1
        await asyncio.sleep(0)
        if turns == 8:
            told["after eight turns"] = [one.request_id for one in passed]
    told["turns"] = turns
    told["passed"] = [one.request_id for one in passed]
    told["left"] = sum(one.new_prompt_logprobs_tensors is not None for one in passed)
    states["whole"].logprobs_processor._update_prompt_logprobs(_scores(LONG, text))
    whole, pieces = (states[one].logprobs_processor.prompt_logprobs for one in ("whole", "long"))
    told["same"] = whole == pieces
    told["rows"] = len(pieces)
    shown = {one.decoded_token for row in pieces[1:] for one in row.values()}
    told["corrected"] = {"\N{SNOWMAN}", "\N{GRINNING FACE}"} <= {one.strip() for one in shown}
    return told


if __name__ == "__main__":
    tell(asyncio.run(main()))
