"""Drives a real engine that goes on with answers of others (see `test_resume`).

python -m tests.engine.resume_driver MODEL_FOLDER ADAPTER_FOLDER xgrammar|guidance [OPTION ...]
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.errors import InternalError
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import AddRequest
from tests.support.driver import config_of, tell

EOS = 2
EIGHTH = 9
"""The eighth token of the plain answer: here it ends reasoning, or an answer."""
MOST = 24
"""Tokens of the longest answer."""

SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["Rome", "Paris"]}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
    "additionalProperties": False,
}
GRAMMAR = 'root ::= "<" [a-z]+ ">" root | "."'
XGRAMMAR: dict[str, dict[str, Any]] = {
    "plain": {},
    "penalties": {
        "presence_penalty": 1.5,
        "frequency_penalty": 0.7,
        "repetition_penalty": 1.4,
        "logprobs": 2,
    },
    "min_tokens": {"min_tokens": 12, "ignore_eos": False, "logit_bias": {EOS: 60.0}},
    "stop token": {"stop_token_ids": [EIGHTH], "min_tokens": 3, "ignore_eos": False},
    "no words": {"bad_words": ["a", "the"], "logit_bias": {64: 5.0}},
    "prompt": {"prompt_logprobs": 1, "logprobs": 5},
    "seed": {"temperature": 1.0, "seed": 11, "logprobs": 0},
    "seed and top": {"temperature": 1.5, "seed": 12, "top_p": 0.9, "top_k": 40},
    "thinking": {"thinking_token_budget": 4, "logprobs": 0},
    "json": {"structured": {"json": SCHEMA}, "ignore_eos": False, "logprobs": 1},
    "regex": {"structured": {"regex": "[a-c]{3,9}-[0-9]+"}, "seed": 3, "temperature": 1.0},
    "choice": {"structured": {"choice": ["Rome is old", "Rome is new"]}, "ignore_eos": False},
    "grammar": {"structured": {"grammar": GRAMMAR}, "logprobs": 2, "ignore_eos": False},
    "reasoning": {"structured": {"regex": "(yes|no){5}"}, "reasoning": True},
}
GUIDANCE: dict[str, dict[str, Any]] = {
    **{name: XGRAMMAR[name] for name in ("json", "regex", "choice", "reasoning")},
    "adapter": {"adapter": True},
}
"""Of an engine that compiles grammars with guidance."""


def main(model: str, adapter: str, backend: str, *options: str) -> dict[str, Any]:
    sizes = ("--max-model-len", "512", "--num-gpu-blocks-override", "64")
    compact = json.dumps({"backend": backend, "disable_any_whitespace": True})
    thinking = json.dumps({"reasoning_start_str": " wel", "reasoning_end_str": " loo"})
    configs = ("--structured-outputs-config", compact, "--reasoning-config", thinking)
    config = config_of(model, *sizes, *configs, *options)
    environment.prepare(config)
    return Driver(config, adapter, backend).run()


class Thinking:
    """A reasoning parser, of which the engine asks only where reasoning ends."""

    def __init__(self, tokenizer: Any) -> None:
        pass

    def is_reasoning_end(self, tokens: list[int]) -> bool:
        return EIGHTH in tokens

    def is_reasoning_end_streaming(self, tokens: list[int], new: list[int]) -> bool:
        assert list(tokens[-len(new) :]) == list(new)
        return EIGHTH in new


class Driver:
    """An engine that answers requests whole, and again from every place of their answers."""

    def __init__(self, config: EngineConfig, adapter: str, backend: str) -> None:
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

        from dynamo_cli.engines.vllm.core.engine import VllmEngine

        self.engine = VllmEngine(0, config)
        self.encoder, self.decoder = MsgpackEncoder(), MsgpackDecoder(EngineCoreOutputs)
        self.adapter = LoRARequest("one", 1, adapter)
        self.backend = backend

    def run(self) -> dict[str, Any]:
        shapes = GUIDANCE if self.backend == "guidance" else XGRAMMAR
        result = {name: self.moved(shape) for name, shape in shapes.items()}
        return {"answers": result, "refused": self.refused()}

    def moved(self, shape: dict[str, Any]) -> dict[str, Any]:
        whole = self.answers({"whole": (shape, [])})["whole"]
        tokens = whole["tokens"]
        before = self.counted()
        alone = self.answers({"1": (shape, tokens[:1])})
        requests = {str(place): (shape, tokens[:place]) for place in range(1, len(tokens))}
        moved = self.answers(requests)
        counted = [now - then for now, then in zip(self.counted(), before, strict=True)]
        return {"whole": whole, "moved": moved, "alone": alone, "counted": counted}

    def counted(self) -> list[int]:
        """What the engine has counted so far: prompts, lookups of prefixes, hits."""
        stats = self.engine.stats(0)
        return [
            stats.prompt_tokens,
            stats.prefix_cache_queries_tokens,
            stats.prefix_cache_hits_tokens,
            stats.preemptions,
        ]

    def refused(self) -> list[Any]:
        """What becomes of answers that are complete, or that their grammar does not allow."""
        found = []
        for said in ([5] * MOST, [5] * (MOST + 1)):
            try:
                self.begin("late", {}, said)
            except InternalError as error:
                found.append(error.message)
        answer = self.answers({"wrong": ({"structured": {"regex": "a{3}"}}, [5, 6])})["wrong"]
        return [*found, answer["failed"], self.engine.has_work()]

    def answers(self, requests: dict[str, tuple[dict[str, Any], list[int]]]) -> dict[str, Any]:
        manager = self.engine._core.structured_output_manager
        thinks = any(shape.get("reasoning") for shape, _ in requests.values())
        manager.reasoner_cls = Thinking if thinks else None
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
        return {"tokens": [], "logprobs": [], "end": None, "first": []}

    def note(self, output: Any, found: dict[str, Any]) -> None:
        found["tokens"] += output.new_token_ids
        if output.new_logprobs is not None:
            found["logprobs"] += [row.tolist() for row in output.new_logprobs.logprobs]
        if output.finish_reason is not None:
            found["end"] = [str(output.finish_reason), output.stop_reason]
        first = {
            "prompt": output.new_prompt_logprobs_tensors is not None,
            "stats": output.prefill_stats is not None,
            "queued": any(event.type.name == "QUEUED" for event in output.events or ()),
        }
        found["first"] += [name for name, there in first.items() if there]

    def frames(self, name: str, shape: dict[str, Any]) -> list[bytes]:
        from vllm import SamplingParams
        from vllm.tokenizers import cached_tokenizer_from_config
        from vllm.v1.engine import EngineCoreRequest

        structured, adapter = shape.pop("structured", None), shape.pop("adapter", False)
        shape.pop("reasoning", None)
        defaults = {"temperature": 0.0, "max_tokens": MOST, "ignore_eos": True}
        params = SamplingParams(**(defaults | shape))
        params.update_from_generation_config({}, EOS)
        params.update_from_tokenizer(
            cached_tokenizer_from_config(self.engine._core.vllm_config.model_config)
        )
        if structured:
            params.structured_outputs = self.structured(structured)
        request = EngineCoreRequest(
            request_id=name,
            prompt_token_ids=[97 + place % 7 for place in range(75)],
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=self.adapter if adapter else None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        return [bytes(frame) for frame in self.encoder.encode(request)]

    def structured(self, given: dict[str, Any]) -> Any:
        """As a processor gives it to the engine."""
        from vllm.sampling_params import StructuredOutputsParams
        from vllm.v1.structured_output.utils import choice_as_grammar

        if self.backend == "xgrammar" and "choice" in given:
            given = {"grammar": choice_as_grammar(given["choice"])}
        chosen = StructuredOutputsParams(**given)
        chosen._backend = self.backend
        return chosen


if __name__ == "__main__":
    tell(main(*sys.argv[1:]))
