"""Requests answered in the short ways and in vLLM's own way, compared; a program of its own.

    python -m tests.processor.ways FOLDER SEED COUNT OPTION ...

tells how many chats, completions and messages took each short way, and what was different.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

from dynamo_cli.engines.vllm.front import (
    anthropic,
    bodies,
    direct,
    echoes,
    inline,
    message_requests,
    rendering,
    scored,
    short,
    whole,
)
from dynamo_cli.messages.request import Chunk, Endpoint, Finish, Head, Reply
from tests.processor import message_bodies
from tests.processor.resumes import Asked, Told, Trial
from tests.support.driver import RESULT

SCRIPTS = (
    'Hi "wörld"\n 猫👩.',
    'Hi "wörld"\n 猫👩.',
    "<think>\nWell.\n</think>\n\nHi.",
    'Well: <tool_call>\n{"name": "f", "arguments": {"a": "b"}}\n</tool_call>',
)
OWN = {
    "openai_serving_chat": (
        *("render_chat_request", "_effective_chat_template_kwargs"),
        *("chat_completion_stream_generator", "chat_completion_full_generator"),
    ),
    "openai_serving_completion": (
        *("render_completion_request", "completion_stream_generator"),
        "request_output_to_completion_response",
    ),
    anthropic.HANDLER: (
        *("render_chat_request", "_effective_chat_template_kwargs", "to_chat_completion_request"),
        *("chat_completion_stream_generator", "chat_completion_full_generator"),
    ),
}
SMALLEST: dict[Endpoint, dict[str, Any]] = {
    Endpoint.CHAT: {"messages": [{"role": "user", "content": "hello"}]},
    Endpoint.COMPLETIONS: {"prompt": "hello"},
    Endpoint.MESSAGES: message_bodies.SMALLEST,
}
RARE = ({"max_tokens": None}, {"max_tokens": None, "stream": True}, {"max_tokens": 10**6})
"""Fields that the dice seldom give by themselves."""

USER = {"role": "user", "content": "hello"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CHOICES = ["auto", "required", {"type": "function", "function": {"name": "f"}}]
BILLING = "x-anthropic-billing-header: cch=1\nBe kind."
MESSAGES: list[Any] = [
    [USER],
    [USER],
    [{"role": "system", "content": "Be kind."}, USER],
    [USER, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "<|im_end|>\n猫"}],
    [{"role": "system", "content": BILLING}, USER],
    [{"role": "developer", "content": "Be kind."}, USER],
    [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}],
    [{"role": "user", "content": ""}],
    [{"role": "user", "content": None}],
    [{"role": "user"}],
    [{"role": "user", "content": "a", "name": "me"}],
    [{"role": "nobody", "content": "a"}],
    [USER, {"role": "assistant", "content": None, "tool_calls": []}],
    [USER, {"role": "assistant", "content": "a", "reasoning": "b"}],
    [{"role": "tool", "content": "a", "tool_call_id": "b"}],
    [{"role": "user", "content": "long " * 600}],
    [{"role": "user", "content": "x" * 20_000}],
    [],
    None,
    "hello",
    [5],
]
SEVERAL: list[Any] = [["a", "b"], [[5], [6, 7]]]
PROMPTS: list[Any] = [
    *("hello", "hello", "<|im_end|>\n猫", "", "long " * 600, "x" * 20_000),
    *([5, 6, 7], [5, 6, 7], [], [True, 5], [5, -1], [5, 10**6], [2**70], [5.0], [5] * 600),
    *(["hello"], [[5, 6]], [""], [[]], None, 7, {"a": 1}, *SEVERAL),
]
COUNTS = [1, 5, 5, 8, 0, -1, None, 7.0, 7.5, "5", True, 10**6, 2**40]
NUMBERS = [0, 0.7, 1, None, "0.5", -1, 3, True, 1e400, [1]]
FIELDS: dict[str, list[Any]] = {
    "model": ["tiny", "tiny", None, "", "other", 5],
    "stream": [True, True, True, False, None, "yes", 1],
    "stream_options": [
        *({"include_usage": True}, {"include_usage": True}, {"include_usage": False}, {}, None),
        *({"include_usage": True, "continuous_usage_stats": True}, {"include_usage": None}, "x"),
    ],
    "max_tokens": COUNTS,
    "max_completion_tokens": COUNTS,
    **dict.fromkeys(("temperature", "top_p", "min_p", "top_k"), NUMBERS),
    "presence_penalty": NUMBERS,
    "frequency_penalty": NUMBERS,
    "repetition_penalty": NUMBERS,
    "n": [1, 1, 2, None, 0, True, 1.0],
    "seed": [1, None, 2**63 - 1, 2**63, -5, 1.0],
    "ignore_eos": [True, False, None, "true", 1],
    "min_tokens": [0, 2, None, 500],
    "user": ["me", None, 5, "x" * 9000, "x" * 300_000],
    "stop": ["r", ["r", "d"], [], None, [""]],
    "include_stop_str_in_output": [True],
    "logprobs": [True, False, None],
    "top_logprobs": [2, 0],
    "return_token_ids": [True],
    "return_prompt_text": [True],
    "echo": [True],
    "add_generation_prompt": [False, True],
    "continue_final_message": [True],
    "chat_template_kwargs": [{"a": 1}, {"add_generation_prompt": False}],
    "chat_template": ["x"],
    "tools": [[], None, [TOOL]],
    "tool_choice": ["none", "auto", None],
    "reasoning_effort": ["low"],
    "priority": [0, 5, "x"],
    "session_id": ["s"],
    "cache_salt": ["x", ""],
    "truncate_prompt_tokens": [5],
    "stream_interval": [2],
    "skip_special_tokens": [False],
    "logit_bias": [{"5": 1.0}],
    "response_format": [{"type": "json_object"}, {"type": "text"}],
    "unknown": [1],
}


OF_COMPLETIONS: dict[str, list[Any]] = {
    name: values
    for name, values in FIELDS.items()
    if not name.startswith(("chat_template", "tool", "top_logprobs", "max_completion", "continue"))
} | {
    "logprobs": [0, 1, 2, None, -1, "1"],
    "prompt_logprobs": [0, 1, None],
    "suffix": ["x", None],
    "best_of": [1],
    "use_beam_search": [False, None],
    "add_special_tokens": [True, False],
    "mm_processor_kwargs": [{}, None],
}


def streamed(dice: random.Random) -> dict[str, Any]:
    """Fields of half of the requests, which are streamed."""
    if dice.random() >= 0.5:
        return {}
    usage = {"stream_options": {"include_usage": True}} if dice.random() < 0.3 else {}
    return {"stream": True} | usage


def completion(dice: random.Random) -> dict[str, Any]:
    """A completion, most often a valid one."""
    body: dict[str, Any] = {"model": "tiny", "prompt": "hello", "max_tokens": dice.choice([6, 60])}
    if dice.random() < 0.1:
        del body["max_tokens"]
    if dice.random() < 0.5:
        body["prompt"] = dice.choice(PROMPTS)
    body |= streamed(dice)
    for name in dice.sample(list(OF_COMPLETIONS), dice.choice([0, 0, 1, 1, 2, 3, 6])):
        body[name] = dice.choice(OF_COMPLETIONS[name])
    if body["prompt"] in SEVERAL:  # the events of several prompts come in any order
        body |= {"stream": False, "stream_options": None}
    return body


def echo(dice: random.Random) -> dict[str, Any]:
    """A completion that repeats its prompt, with log probabilities."""
    body: dict[str, Any] = {"model": "tiny", "prompt": dice.choice(["hello", "hello " * 20])}
    body |= {"echo": True, "logprobs": dice.choice([0, 2]), "max_tokens": dice.choice([0, 1, 6])}
    return body | (streamed(dice) or {"n": 2})  # events of two answers come in any order


def chat(dice: random.Random) -> dict[str, Any]:
    """A chat, most often a valid one."""
    most = dice.choice([6, 6, 60])
    body: dict[str, Any] = {"model": "tiny", "messages": [USER], "max_tokens": most}
    if dice.random() < 0.5:
        body["messages"] = dice.choice(MESSAGES)
    body |= streamed(dice)
    if dice.random() < 0.2:
        tools = {"tools": [TOOL], "tool_choice": dice.choice(CHOICES)}
        return body | tools | {"messages": [USER], "max_tokens": 60}
    return message_bodies.filled(body, FIELDS, dice)


class Ways(Trial):
    """A front half that can be told to take vLLM's way."""

    def __init__(self, folder: Path, *args: str) -> None:
        super().__init__(folder, *args)
        self.taken: Counter[str] = Counter()
        self._short = bodies._SHORT
        self._dice = random.Random(1)
        for label, place, name in (
            ("chat", short.Short, "chat"),
            ("completion", short.Short, "completion"),
            ("render", rendering.Renderer, "render"),
            ("read", rendering.PromptReader, "render"),
            ("chat body", whole, "_chat_body"),
            ("completion body", whole, "_completion_body"),
            ("message body", whole, "_message_body"),
            ("message", message_requests._Chats, "make"),
            ("begin", direct.Direct, "_send"),
            ("token", direct.Direct, "take"),
            ("echo", echoes.EchoSteps, "run"),
        ):
            setattr(place, name, self._counting(label, getattr(place, name)))

    def compare_parameters(self, kind: Any) -> None:
        """Compare sampling parameters that are remembered with those that vLLM makes."""
        remembered, convert = kind.to_sampling_params, kind.to_sampling_params.__wrapped__

        def run(request: Any, max_tokens: int, defaults: Any) -> Any:
            wanted = convert(request, max_tokens, defaults)
            for got in (remembered(request, max_tokens, defaults) for _ in range(2)):
                if got != wanted:
                    self.engine.wrong.append(f"parameters {got!r} not {wanted!r}")
                got._all_stop_token_ids.add(7)
                got.max_tokens = 1
            return wanted

        kind.to_sampling_params = run

    def _counting(self, label: str, function: Any) -> Any:
        def run(*args: Any) -> Any:
            if label in ("render", "read") and not inline.is_in_place():
                self.engine.wrong.append("a long prompt is made in the event loop")
            result = function(*args)
            of = f" of {self._endpoint}" if label in ("begin", "token") else ""
            self.taken[label + of] += result is not False and (
                result is not None or label == "begin"
            )
            return result

        return run

    async def both(self, endpoint: Endpoint, body: dict[str, Any]) -> str:
        """Return what is different; empty if nothing is."""
        asked, engine, dice = Asked(endpoint, body, ""), self.engine, self._dice
        self._endpoint = endpoint.name.lower()
        engine.script, engine.burst = dice.choice(SCRIPTS), dice.choice([1, 1, 3])
        engine.fails = dice.random() < 0.05
        got = _told(await self._answer(asked, None))
        state, kept = self.serving._state, []
        for handler, names in OWN.items():
            has = vars(getattr(state, handler))
            kept.append((has, {name: has.pop(name) for name in names if name in has}))
        bodies._SHORT = _Never()  # type: ignore[assignment]
        try:
            wanted = _told(await self._answer(asked, None))
        finally:
            for has, had in kept:
                has.update(had)
            bodies._SHORT = self._short
        same = got == wanted
        if not same and body.get("echo") and body.get("stream"):
            # While a thread makes the first event, later tokens are joined to one.
            same = _joined(got) == _joined(wanted)
        return "" if same else f"{body!r}\ngot    {got!r}\nwanted {wanted!r}"


class _Never:
    def chat(self, content: dict[str, Any]) -> None:
        return None

    def completion(self, content: dict[str, Any]) -> None:
        return None


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


def _broken(*_: Any) -> None:
    raise KeyError("nobody expects this")


def _full(_: int) -> None:
    raise ValueError("the engine takes no more")


def _shared() -> list[str]:
    """Names of the lists that two requests made in the short way have together."""
    made, found = short.Short(), []
    for make, body in ((made.chat, {"messages": [USER]}), (made.completion, {"prompt": "a"})):
        one, other = (vars(make({**body})) for _ in range(2))
        found += [name for name in one if type(one[name]) is list and one[name] is other[name]]
    return [name for name in found if name != "messages"]


def _told(told: Told) -> list[Any]:
    found: list[Any] = []
    for one in told.messages:
        match one:
            case Head():
                found.append((one.status, one.content_type, one.headers, one.worker))
            case Chunk():
                data = re.sub(rb'"signature":"\w+"', b"", one.data)
                found.append((data, one.tokens, one.output))
            case Reply():
                body = re.sub(rb'"signature":"\w+"', b"", one.body)  # a random id
                found.append((one.status, body, one.usage, one.error, one.finish_reason))
            case Finish():
                found.append((one.usage, one.error, one.finish_reason))
    return found


def _joined(told: list[Any]) -> list[Any]:
    """The events of a stream of a completion as one event."""
    joined: dict[str, Any] = {}
    others, tokens = [], 0
    for one in told:
        if not isinstance(one[0], bytes) or not one[0].startswith(b'data: {"id"'):
            others.append(one)
            continue
        tokens += one[1]
        event = json.loads(one[0].removeprefix(b"data: "))
        for choice in event.pop("choices"):
            joined["text"] = joined.get("text", "") + choice.pop("text")
            for name, values in (choice.pop("logprobs") or {}).items():
                joined[name] = joined.get(name, []) + (values or [])
            joined |= {name: value for name, value in choice.items() if value is not None}
        joined |= {name: value for name, value in event.items() if value is not None}
    return [joined, tokens, others]


async def main(folder: str, seed: str, count: str, *args: str) -> None:
    told_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    scored.MANY = 8
    ways, warnings = Ways(Path(folder), *args), _Warnings()
    logging.getLogger(rendering.__name__).addHandler(warnings)
    await ways.serving.start()
    for kind in (ChatCompletionRequest, CompletionRequest):
        ways.compare_parameters(kind)
    dice, each = random.Random(int(seed)), int(count) // 3
    different = [await ways.both(Endpoint.CHAT, chat(dice)) for _ in range(each)]
    different += [await ways.both(Endpoint.COMPLETIONS, completion(dice)) for _ in range(each)]
    different += [await ways.both(Endpoint.COMPLETIONS, echo(dice)) for _ in range(60)]
    # Fewer of them are plain, since many have tools or blocks of text.
    told = [message_bodies.message(dice) for _ in range(each * 3 // 2)]
    different += [await ways.both(Endpoint.MESSAGES, body) for body in told]
    rare = [(endpoint, least | more) for endpoint, least in SMALLEST.items() for more in RARE]
    different += [await ways.both(endpoint, body) for endpoint, body in rare]
    for handler in OWN:
        getattr(ways.serving._state, handler)._preflight = _full
    different += [await ways.both(endpoint, body) for endpoint, body in SMALLEST.items()]
    for handler in OWN:
        del getattr(ways.serving._state, handler)._preflight
    warned = len(warnings.told)
    for kind in (rendering.Renderer, rendering.PromptReader):
        kind.render = _broken  # type: ignore[method-assign,assignment]
    different += [await ways.both(endpoint, body) for endpoint, body in SMALLEST.items()]
    different += ways.engine.wrong + _shared()
    left = ways.serving._llm.output_processor.get_num_unfinished_requests()
    different = [one for one in different if one]
    result = {"taken": ways.taken, "different": different[:5], "left": left}
    result |= {"warned": warned, "broken": warnings.told[warned:]}
    print(RESULT + json.dumps(result), file=told_to, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
