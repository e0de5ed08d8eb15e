"""Drives a real engine that goes on with answers of others (see `test_resume`).

python -m tests.engine.resume_driver MODEL_FOLDER [OPTION OF VLLM ...]
"""

from __future__ import annotations

import sys
import time
from typing import Any

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import AddRequest
from tests.support.driver import config_of, tell

EOS = 2
MOST = 24
"""Tokens of the longest answer."""

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Rome", "Paris"]}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= "<" [a-z]+ ">" root | "."'
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalties": {
        "presence_penalty": 1.5,
        "frequency_penalty": 0.7,
        "repetition_penalty": 1.4,
        "logprobs": 2,
    },
    "min_tokens": {"min_tokens": 12, "ignore_eos": False, "logit_bias": {EOS: 60.0}},
    "logprobs": {"logprobs": 5},
    "prompt_logprobs": {"prompt_logprobs": 1, "logprobs": 1},
    "seed": {"temperature": 1.0, "seed": 11, "logprobs": 0},
    "seed top": {"temperature": 1.5, "seed": 12, "top_p": 0.9, "top_k": 40, "logprobs": 0},
    "json": {"structured": {"json": SCHEMA}, "ignore_eos": False},
    "regex": {"structured": {"regex": "[a-c]{3,9}-[0-9]+"}, "logprobs": 1},
    "choice": {
        "structured": {"grammar": 'root ::= "Rome is old" | "Rome is new"'},
        "ignore_eos": False,
    },
    "grammar": {"structured": {"grammar": GRAMMAR}, "ignore_eos": False},
}


def main(model: str, *options: str) -> dict[str, Any]:
    compact = ("--structured-outputs-config", '{"disable_any_whitespace": true}')
    sizes = ("--max-model-len", "512", "--num-gpu-blocks-override", "64")
    config = config_of(model, *sizes, *compact, *options)
    environment.prepare(config)
    return Driver(config).run()


class Driver:
    """An engine that answers requests whole, and again from every place of their answers."""

    def __init__(self, config: EngineConfig) -> None:
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

        from dynamo_cli.engines.vllm.core.engine import Engine

        self.engine = Engine(0, config)
        self.encoder, self.decoder = MsgpackEncoder(), MsgpackDecoder(EngineCoreOutputs)

    def run(self) -> dict[str, Any]:
        return {name: self.moved(shape) for name, shape in SHAPES.items()}

    def moved(self, shape: dict[str, Any]) -> dict[str, Any]:
        whole = self.answers({"whole": (shape, [])})["whole"]
        tokens = whole["tokens"]
        alone = {
            str(place): self.answers({"moved": (shape, tokens[:place])})["moved"]
            for place in (1, len(tokens) // 2)
        }
        requests = {str(place): (shape, tokens[:place]) for place in range(len(tokens))}
        return {"whole": whole, "moved": self.answers(requests), "alone": alone}

    def answers(self, requests: dict[str, tuple[dict[str, Any], list[int]]]) -> dict[str, Any]:
        found: dict[str, Any] = {name: self.begin(name, *one) for name, one in requests.items()}
        while self.engine.has_work():
            for _, message in self.engine.step():
                for output in self.decoder.decode(message.frames).outputs:
                    self.note(output, found[output.request_id])
        for _, name, error in self.engine.take_failed():
            found[name]["failed"] = error.message
        return found

    def begin(self, name: str, shape: dict[str, Any], said: list[int]) -> dict[str, Any]:
        frames = self.frames(name, dict(shape))
        tokens = hashes.pack_tokens(said)
        self.engine.add(0, AddRequest(name, b"", frames, output_tokens=tokens))
        return {"tokens": [], "logprobs": [], "end": None, "prompt": 0, "stats": 0}

    def note(self, output: Any, found: dict[str, Any]) -> None:
        found["tokens"] += output.new_token_ids
        if output.new_logprobs is not None:
            found["logprobs"] += [row.tolist() for row in output.new_logprobs.logprobs]
        if output.finish_reason is not None:
            found["end"] = [str(output.finish_reason), output.stop_reason]
        found["prompt"] += output.new_prompt_logprobs_tensors is not None
        found["stats"] += output.prefill_stats is not None

    def frames(self, name: str, shape: dict[str, Any]) -> list[bytes]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams
        from vllm.v1.engine import EngineCoreRequest

        structured = shape.pop("structured", None)
        defaults = {"temperature": 0.0, "max_tokens": MOST, "ignore_eos": True}
        params = SamplingParams(**(defaults | shape))
        params.update_from_generation_config({}, EOS)
        if structured:
            params.structured_outputs = StructuredOutputsParams(**structured)
            params.structured_outputs._backend = "xgrammar"
        request = EngineCoreRequest(
            request_id=name,
            prompt_token_ids=[97 + place % 7 for place in range(75)],
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        return [bytes(frame) for frame in self.encoder.encode(request)]


if __name__ == "__main__":
    tell(main(*sys.argv[1:]))
