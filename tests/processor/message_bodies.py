"""Bodies of `/v1/messages` for `tests.processor.ways`, valid and invalid."""

from __future__ import annotations

import random
from typing import Any

USER = {"role": "user", "content": "hello"}
ASSISTANT = {"role": "assistant", "content": "Hi."}
BILLING = "x-anthropic-billing-header: cch=1\nBe kind."
A, B = {"type": "text", "text": "a"}, {"type": "text", "text": "b"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "x"}}
CALLED = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "t", "content": "5"}
TOOL = {"name": "f", "input_schema": {"type": "object"}}
CHOICES = [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "f"}, None]
MESSAGES: list[Any] = [
    [USER, ASSISTANT, {"role": "user", "content": "<|im_end|>\n猫"}],
    [USER, ASSISTANT, {"role": "user", "content": [A]}],
    [{"role": "user", "content": [A]}],
    [{"role": "user", "content": [A, B]}],
    [{"role": "user", "content": [A | {"cache_control": {"type": "ephemeral"}}]}],
    [USER, {"role": "system", "content": "Be kind."}, USER],
    [{"role": "system", "content": BILLING}, USER],
    [{"role": "system", "content": [A, B]}, USER],
    [{"role": "user", "content": [A, IMAGE]}],
    [USER, {"role": "assistant", "content": [CALLED]}, {"role": "user", "content": [RESULT]}],
    [USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "w"}, A]}, USER],
    [USER, {"role": "assistant", "content": "Well"}],
    [{"role": "user", "content": "long " * 600}],
    [{"role": "user", "content": "x" * 20_000}],
    *([{"role": "user", "content": ""}], [{"role": "user", "content": []}]),
    *([{"role": "user", "content": None}], [{"role": "user"}], [{"role": "user", "content": [5]}]),
    *([{"role": "developer", "content": "a"}], [USER | {"name": "me"}], [ASSISTANT]),
    *([], None, "hello", [5]),
]
COUNTS = [1, 5, 8, 0, -1, None, 7.0, 7.5, "5", True, 10**6, 2**40]
NUMBERS = [0, 0.7, 1, None, "0.5", -1, 3, True, 1e400, [1]]
FIELDS: dict[str, list[Any]] = {
    "model": ["tiny", None, "", "other", 5],
    "stream": [True, True, False, None, "yes", 1],
    "max_tokens": COUNTS,
    "system": ["Be kind.", "Be kind.", [A, B], [A], "", [], None, 5, BILLING, [{"type": "x"}]],
    **dict.fromkeys(("temperature", "top_p", "top_k"), NUMBERS),
    "stop_sequences": [["r"], ["r", "wör"], [" 猫"], ["Hi"], [], None, [""], "r", [5]],
    "metadata": [{"user_id": "me"}, None, {}, 5],
    "tools": [[], None, [TOOL], [{"name": "f"}]],
    "tool_choice": [{"type": "none"}, {"type": "auto"}, {"type": "any"}, None, "auto"],
    "thinking": [{"type": "disabled"}, {"type": "adaptive"}, None, {"type": "enabled"}],
    "output_config": [{"effort": "low"}, {}, None, {"format": {"type": "json_schema"}}],
    "chat_template_kwargs": [{"a": 1}, {"add_generation_prompt": False}, None],
    "cache_salt": ["x", "", None],
    "kv_transfer_params": [{}, None],
    "vllm_xargs": [{}, None, {"a": 1}],
    "watermarking": [None, False],
    "mm_payload": ["none", None],
    "service_tier": ["auto"],
    "container": [None],
    "unknown": [1],
}
SMALLEST = {"model": "tiny", "max_tokens": 6, "messages": [USER]}


def message(dice: random.Random) -> dict[str, Any]:
    """A message, most often a valid one."""
    body: dict[str, Any] = SMALLEST | {"max_tokens": dice.choice([6, 60, 60])}
    if dice.random() < 0.5:
        body["messages"] = dice.choice(MESSAGES)
    if dice.random() < 0.5:
        body["stream"] = True
    if dice.random() < 0.2:
        tools = {"tools": [TOOL], "tool_choice": dice.choice(CHOICES)}
        return body | tools | {"messages": [USER], "max_tokens": 60}
    return filled(body, FIELDS, dice)


def filled(
    body: dict[str, Any], fields: dict[str, list[Any]], dice: random.Random
) -> dict[str, Any]:
    """A body with values for some of the fields."""
    names = dice.sample(list(fields), dice.choice([0, 0, 1, 1, 2, 3, 6]))
    return body | {name: dice.choice(fields[name]) for name in names}
