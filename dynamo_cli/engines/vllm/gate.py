"""The gate: what a client may say in the body of a request to the model. Pure.

vLLM's request classes have fields for whoever runs an engine beside fields for its clients, and
much that they accept ends a worker, a processor or the memory of either. Every field of every
class that is served has a rule here, by its name; a test walks the classes. The rules look at the
body before vLLM does, so that names that no class declares and vLLM reads anyway
(`mm_processor_kwargs` of a completion) have theirs too. Other names pass: vLLM ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

from dynamo_cli.engines.vllm.bounds import (
    Allowed,
    Entries,
    Number,
    Refused,
    Rule,
    Text,
    Weight,
    Words,
    as_number,
    check_all,
    entries,
)
from dynamo_cli.errors import InvalidRequest
from dynamo_cli.messages import MAX_SESSION_ID, Endpoint

MAX_DEPTH = 128
"""Of objects and lists in each other: half of what makes Python's recursion end."""

MAX_NODES = 65_536
"""Objects and lists in a body: pydantic needs about 20 us for each, in the processor's loop."""

MAX_N = 128
"""Answers to one prompt, as in OpenAI's API."""

MAX_SEQUENCES = 1024
"""Answers of one request, over all its prompts: each is a request to an engine."""

MAX_INPUTS = 2048
"""Texts in one request for embeddings, as in OpenAI's API."""

_INT32 = 2**31 - 1
_KIB = 1024
_MESSAGES = Entries(8192)
_COUNT = Number(0, _INT32)
_SCHEMA = Weight(128 * _KIB)  # OpenAI takes 120,000 characters
_BETWEEN_ENGINES = Refused(
    "it says where other engines keep the state of a request, which this server arranges itself "
    "with --prefill-workers"
)
# Blocks would be announced again that are there already, and none of them leaves twice.
_REPORTS = Refused("it says what engines tell the router; leave it out")

ALLOWED = Allowed()

POWERS: Mapping[str, Rule] = {
    "kv_transfer_params": _BETWEEN_ENGINES,
    "ec_transfer_params": _BETWEEN_ENGINES,
    "kv_cache_report_mode": _REPORTS,
}
"""What vLLM's engine looks for in the extra arguments of a request."""

_XARGS: Mapping[str, Rule] = {**POWERS, "session_id": Text(MAX_SESSION_ID)}

_TEMPLATE_ARGUMENTS: Mapping[str, Rule] = {
    name: Refused("it is an argument of the tokenizer, not of the template; leave it out")
    for name in (
        *("conversation", "max_length", "padding", "return_assistant_tokens_mask"),
        *("return_dict", "return_tensors", "tokenize", "tokenizer", "tokenizer_kwargs"),
        "truncation",
    )
}

STRUCTURED_OUTPUTS: Mapping[str, Rule] = {
    "json": _SCHEMA,
    "regex": Text(8 * _KIB),
    "choice": Weight(64 * _KIB, entries=1024),
    "grammar": Text(64 * _KIB),
    "json_object": ALLOWED,
    "disable_any_whitespace": ALLOWED,
    "disable_additional_properties": ALLOWED,
    "whitespace_pattern": Text(256),
    "structural_tag": _SCHEMA,
}

REPETITION_DETECTION: Mapping[str, Rule] = {
    # The engine looks for each size after each token.
    "max_pattern_size": Number(0, 256),
    "min_pattern_size": Number(0, 256),
    "min_count": Number(0, 256),
}

_REFUSED: dict[str, Rule] = {
    **POWERS,
    "request_id": Refused("send it as the header X-Request-ID"),
    "background": Refused(
        "answers are not kept here; leave it out and read the answer, or its stream", unless=False
    ),
    "previous_response_id": Refused("answers are not kept here; send the conversation as input"),
    "logits_processors": Refused("it names code to run; start the server with --logits-processors"),
    "extra_args": Weight(_KIB * _KIB, inner=POWERS),
}

_BOUNDED: dict[str, Rule] = {
    # who and when
    "session_id": Text(MAX_SESSION_ID),
    # the engine is given the nearest of nine digits, as of the header X-Priority
    "priority": Number(-(2**63), 2**63 - 1),
    "cache_salt": Text(128),
    # how much
    "n": Number(1, MAX_N),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), _COUNT),
    "min_tokens": _COUNT,
    "max_tool_calls": _COUNT,
    "thinking_token_budget": Number(-1, _INT32),
    "thinking": Weight(_KIB, inner={"budget_tokens": _COUNT}),
    "stream_interval": Number(1, _INT32),
    "routed_experts_prompt_start": _COUNT,
    "dimensions": Number(1, _INT32),
    "messages": _MESSAGES,
    "input": _MESSAGES,
    "previous_input_messages": _MESSAGES,
    # how: vLLM's newer model runner has room for so many in a batch, and dies of more
    "top_k": Number(-1, _INT32),
    "length_penalty": Number(-10, 10),
    "repetition_penalty": Number(0.01, 100),
    "allowed_token_ids": Entries(1024, numbers=True),
    "logit_bias": Entries(1024),
    "logprob_token_ids": Entries(128, numbers=True),
    "stop_token_ids": Entries(64, numbers=True),
    "bad_words": Words(128, 512),
    "stop": Entries(16, each=Text(_KIB)),
    "stop_sequences": Entries(16, each=Text(_KIB)),
    "repetition_detection": Weight(_KIB, inner=REPETITION_DETECTION),
    # what is compiled, or given to templates
    "structured_outputs": Weight(256 * _KIB, inner=STRUCTURED_OUTPUTS),
    **dict.fromkeys(("response_format", "text", "output_config"), _SCHEMA),
    "tools": Weight(_KIB * _KIB, entries=1024),
    "chat_template_kwargs": Weight(64 * _KIB, inner=_TEMPLATE_ARGUMENTS),
    "vllm_xargs": Weight(64 * _KIB, inner=_XARGS),
}

_ALLOWED = (
    # the prompt, which is bounded by the model's context
    *("documents", "echo", "instructions", "prompt", "suffix", "system", "tokens"),
    *("add_generation_prompt", "add_special_tokens", "continue_final_message"),
    # vLLM refuses these unless it was started with --trust-request-chat-template,
    # --trust-request-mm-kwargs or --enable-prompt-embeds
    *("chat_template", "media_io_kwargs", "mm_processor_kwargs", "prompt_embeds"),
    # numbers that vLLM bounds
    *("frequency_penalty", "min_p", "presence_penalty", "seed", "temperature", "top_p"),
    *("logprobs", "prompt_logprobs", "top_logprobs", "truncate_prompt_tokens"),
    # switches and names
    *("ignore_eos", "include", "include_reasoning", "include_stop_str_in_output"),
    *("enable_response_messages", "metadata", "model", "parallel_tool_calls", "prompt_cache_key"),
    *("reasoning", "reasoning_effort", "service_tier", "skip_special_tokens"),
    *("spaces_between_special_tokens", "store", "stream", "stream_options", "tool_choice"),
    *("truncation", "truncation_side", "use_beam_search", "user", "watermarking"),
    # the form of the answer
    *("embed_dtype", "encoding_format", "endianness", "padding", "use_activation"),
    *("mm_payload", "return_mm_kwargs", "return_prompt_text", "return_token_ids"),
    *("return_token_offsets", "return_token_strs", "return_tokens_as_token_ids"),
)

RULES: Mapping[str, Rule] = MappingProxyType(
    {**dict.fromkeys(_ALLOWED, ALLOWED), **_BOUNDED, **_REFUSED}
)
"""By the name of the field, whatever the endpoint."""

UNDECLARED = frozenset({"extra_args", "kv_cache_report_mode", "logits_processors"})
"""Of these names, those that are fields of no class."""

_ACTIVE = {name: rule for name, rule in RULES.items() if rule is not ALLOWED}

_INPUTS = Entries(MAX_INPUTS)

_OF_ENDPOINTS: Mapping[Endpoint, Mapping[str, Rule]] = {
    Endpoint.EMBEDDINGS: {**_ACTIVE, "input": _INPUTS, "messages": _INPUTS},
}

_PROMPTS = ("prompt", "prompt_embeds")

_FORCED: Mapping[Endpoint, Mapping[str, Any]] = {
    # Kept answers would never leave the memory of the one processor that has them.
    Endpoint.RESPONSES: {"store": False},
}


def rules_of(endpoint: Endpoint) -> Mapping[str, Rule]:
    """The rules that can refuse a body sent there, by field."""
    return _OF_ENDPOINTS.get(endpoint, _ACTIVE)


def check(endpoint: Endpoint, content: dict[str, Any], body: bytes) -> None:
    """Look at all of a request, and leave in it what vLLM may see.

    Args:
        content: what `body` says; changed.

    Raises:
        InvalidRequest: with the name of the field that cannot be, and why.
    """
    _check_shape(content, body)
    check_all(rules_of(endpoint), content)
    _check_sequences(content)
    content.update(_FORCED.get(endpoint, {}))


def _check_sequences(content: dict[str, Any]) -> None:
    """Prompts times answers to each."""
    prompts = sum(entries(content[name]) for name in _PROMPTS if name in content)
    answers = as_number(content.get("n")) or 1
    if prompts > 1 and prompts * answers > MAX_SEQUENCES:
        raise InvalidRequest(
            f"{prompts} prompts with {answers:g} answers each are more than {MAX_SEQUENCES}; "
            "send them in several requests.",
            param="n" if answers > 1 else "prompt",
        )


def _check_shape(content: dict[str, Any], body: bytes) -> None:
    """Its depth and its number of objects and lists; in most bodies there are not that many."""
    if body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return
    level: list[Any] = [content]
    nodes = 0
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES:
            raise InvalidRequest(f"the body has more than {MAX_NODES} objects and lists.")
        inside = chain.from_iterable(
            node.values() if isinstance(node, dict) else node for node in level
        )
        level = [value for value in inside if isinstance(value, dict | list)]
        if not level:
            return
    raise InvalidRequest(f"the body has objects and lists more than {MAX_DEPTH} deep.")
