"""The gate: what a client may send in the body of a request to the model. Pure.

vLLM's request classes have fields for operators beside those for clients, and some values that they
accept kill a worker or a processor, or exhaust its memory. So every field of every class that is
served has a rule here, by its name; a test walks the classes. The rules see the body before vLLM
does, so there are also rules for fields that vLLM reads although no class declares them
(`mm_processor_kwargs` of a completion). Other fields pass: vLLM ignores them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dynamo_cli.engines.vllm.front.bounds import (
    Allowed,
    BoundedJson,
    BoundedStrings,
    BoundedText,
    Entries,
    FieldRule,
    Number,
    Refused,
    as_number,
    check_all,
    entries,
)
from dynamo_cli.engines.vllm.front.weigh import BodyWeight, weigh
from dynamo_cli.errors import InvalidRequest
from dynamo_cli.messages.request import MAX_SESSION_ID, Endpoint

MAX_DEPTH = 128
"""Deepest nesting of objects and lists: half of Python's recursion limit for them."""

MAX_NODES = 16_384
"""Most objects and lists in a body: pydantic takes about 20 us for each, and blocks all streams."""

MAX_VALUES = 65_536
"""Most values of all kinds in a body, without token ids."""

MAX_FIELDS = 1024
"""Most fields of a body; vLLM looks at each of them, even at unknown ones."""

MANY = 64
"""Longest list that pydantic validates at once. For some classes it collects hundreds of errors for
each wrong entry, so a longer list is validated in pieces, up to the first error."""

MAX_PARTS = 1024
"""Most parts of one message: texts, images, tool calls."""

MAX_N = 128
"""Most answers to one prompt, as in OpenAI's API."""

MAX_SEQUENCES = 1024
"""Most answers of one request, over all its prompts: each of them is an engine request."""

MAX_INPUTS = 2048
"""Most texts in one request for embeddings, as in OpenAI's API."""

_INT32 = 2**31 - 1
_KIB = 1024
_MESSAGES = Entries(8192, numbers=True)
_COUNT = Number(0, _INT32)
_SCHEMA = BoundedJson(128 * _KIB)  # OpenAI takes 120,000 characters
_BETWEEN_ENGINES = Refused(
    "it says where other engines keep the state of a request, which this server arranges itself "
    "with --prefill-workers"
)
# The engine would report blocks as stored that it has reported before, but as removed only once.
_REPORTS = Refused("it says what engines tell the router; leave it out")

ALLOWED = Allowed()

ENGINE_ARGUMENTS: Mapping[str, FieldRule] = {
    "kv_transfer_params": _BETWEEN_ENGINES,
    "ec_transfer_params": _BETWEEN_ENGINES,
    "kv_cache_report_mode": _REPORTS,
}
"""Fields that vLLM's engine reads from the extra arguments of a request."""

_XARGS: Mapping[str, FieldRule] = {**ENGINE_ARGUMENTS, "session_id": BoundedText(MAX_SESSION_ID)}

_TEMPLATE_ARGUMENTS: Mapping[str, FieldRule] = {
    name: Refused("it is an argument of the tokenizer, not of the template; leave it out")
    for name in (
        *("conversation", "max_length", "padding", "return_assistant_tokens_mask"),
        *("return_dict", "return_tensors", "tokenize", "tokenizer", "tokenizer_kwargs"),
        "truncation",
    )
}

STRUCTURED_OUTPUTS: Mapping[str, FieldRule] = {
    "json": _SCHEMA,
    "regex": BoundedText(8 * _KIB),
    "choice": BoundedJson(64 * _KIB, entries=1024),
    "grammar": BoundedText(64 * _KIB),
    "json_object": ALLOWED,
    "disable_any_whitespace": ALLOWED,
    "disable_additional_properties": ALLOWED,
    "whitespace_pattern": BoundedText(256),
    "structural_tag": _SCHEMA,
}

REPETITION_DETECTION: Mapping[str, FieldRule] = {
    # After each token the engine looks for patterns of each size.
    "max_pattern_size": Number(0, 256),
    "min_pattern_size": Number(0, 256),
    "min_count": Number(0, 256),
}

_REFUSED: dict[str, FieldRule] = {
    **ENGINE_ARGUMENTS,
    "request_id": Refused("send it as the header X-Request-ID"),
    "background": Refused(
        "answers are not kept here; leave it out and read the answer, or its stream", unless=False
    ),
    "previous_response_id": Refused("answers are not kept here; send the conversation as input"),
    "logits_processors": Refused("it names code to run; start the server with --logits-processors"),
    "return_weight_versions": Refused(
        "the weights never change while this server runs; leave it out", unless=False
    ),
    "extra_args": BoundedJson(_KIB * _KIB, inner=ENGINE_ARGUMENTS),
}

_BOUNDED: dict[str, FieldRule] = {
    # session and priority
    "session_id": BoundedText(MAX_SESSION_ID),
    # the engine gets the nearest number of nine digits, which is the bound of X-Priority too
    "priority": Number(-(2**63), 2**63 - 1),
    "cache_salt": BoundedText(128),
    # amounts
    "n": Number(1, MAX_N),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens"), _COUNT),
    "min_tokens": _COUNT,
    "max_tool_calls": _COUNT,
    "thinking_token_budget": Number(-1, _INT32),
    "thinking": BoundedJson(_KIB, inner={"budget_tokens": _COUNT}),
    "stream_interval": Number(1, _INT32),
    "routed_experts_prompt_start": _COUNT,
    "dimensions": Number(1, _INT32),
    "messages": _MESSAGES,
    "input": _MESSAGES,
    "previous_input_messages": _MESSAGES,
    # sampling: vLLM's newer model runner has buffers of these sizes, and dies of more entries
    "top_k": Number(-1, _INT32),
    "length_penalty": Number(-10, 10),
    "repetition_penalty": Number(0.01, 100),
    "allowed_token_ids": Entries(1024, numbers=True),
    "logit_bias": Entries(1024),
    "logprob_token_ids": Entries(128, numbers=True),
    "stop_token_ids": Entries(64, numbers=True),
    "bad_words": BoundedStrings(128, 512),
    "stop": Entries(16, each=BoundedText(_KIB)),
    "stop_sequences": Entries(16, each=BoundedText(_KIB)),
    "repetition_detection": BoundedJson(_KIB, inner=REPETITION_DETECTION),
    # schemas that are compiled, and arguments of templates
    "structured_outputs": BoundedJson(256 * _KIB, inner=STRUCTURED_OUTPUTS),
    **dict.fromkeys(("response_format", "text", "output_config"), _SCHEMA),
    "tools": BoundedJson(_KIB * _KIB, entries=1024),
    "chat_template_kwargs": BoundedJson(64 * _KIB, inner=_TEMPLATE_ARGUMENTS),
    "vllm_xargs": BoundedJson(64 * _KIB, inner=_XARGS),
    # only repeated in the answer
    "prompt_cache_options": BoundedJson(_KIB),
    "safety_identifier": BoundedText(512),
}

_ALLOWED = (
    # the prompt, which the model's context bounds
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
    "prompt_cache_retention",
    *("reasoning", "reasoning_effort", "service_tier", "skip_special_tokens"),
    *("spaces_between_special_tokens", "store", "stream", "stream_options", "tool_choice"),
    *("truncation", "truncation_side", "use_beam_search", "user", "watermarking"),
    # the form of the answer
    *("embed_dtype", "encoding_format", "endianness", "padding", "use_activation"),
    *("mm_payload", "return_mm_kwargs", "return_prompt_text", "return_token_ids"),
    *("return_token_offsets", "return_token_strs", "return_tokens_as_token_ids"),
)

RULES: Mapping[str, FieldRule] = MappingProxyType(
    {**dict.fromkeys(_ALLOWED, ALLOWED), **_BOUNDED, **_REFUSED}
)
"""The rules by name of the field, for all endpoints."""

UNDECLARED = frozenset({"extra_args", "kv_cache_report_mode", "logits_processors"})
"""Fields that have a rule here although no class of vLLM declares them; a test compares."""

NEW: Mapping[str, frozenset[str]] = {
    "0.33": frozenset(
        {
            *("prompt_cache_options", "prompt_cache_retention", "return_weight_versions"),
            "safety_identifier",
        }
    ),
}
"""Fields that a release of vLLM declares, and those before it do not; a test compares."""

_ACTIVE = {name: rule for name, rule in RULES.items() if rule is not ALLOWED}

_INPUTS = Entries(MAX_INPUTS)

_OF_ENDPOINTS: Mapping[Endpoint, Mapping[str, FieldRule]] = {
    Endpoint.EMBEDDINGS: {**_ACTIVE, "input": _INPUTS, "messages": _INPUTS},
}

_PROMPTS = ("prompt", "prompt_embeds")
_MESSAGE_LISTS = ("messages", "input", "previous_input_messages")
_IDS = ("prompt", "input", "tokens")
"""Fields that take token ids; the first two also take lists of lists of them."""

_FORCED: Mapping[Endpoint, Mapping[str, Any]] = {
    # A stored answer would stay in the memory of one processor for ever.
    Endpoint.RESPONSES: {"store": False},
}


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """Bounds of a request that depend on the model.

    Attributes:
        context: context length of the model, tokens; 0 while it is not known.
        side: the side from which its tokenizer truncates a text, left or right.
    """

    context: int = 0
    side: str = "right"

    @property
    def ids(self) -> int:
        """Most token ids in one request, over all its prompts."""
        return max(524_288, self.context)

    @property
    def tokens(self) -> int:
        """Most token ids that can be turned into a text."""
        return max(131_072, 2 * self.context)

    @property
    def characters(self) -> int:
        """Most characters of a text to tokenize that need not fit into the context."""
        return max(524_288, 8 * self.context)


def rules_of(endpoint: Endpoint) -> Mapping[str, FieldRule]:
    """Return the rules that can refuse a body of the endpoint, by field."""
    return _OF_ENDPOINTS.get(endpoint, _ACTIVE)


def check_weight(body: bytes, limits: ModelLimits) -> BodyWeight:
    """Estimate how many values are in a body, before it is parsed.

    Raises:
        InvalidRequest: it has more values, or nests them deeper, than any useful request.
    """
    if len(body) <= MAX_VALUES and body.count(b"{") + body.count(b"[") <= MAX_DEPTH:
        return BodyWeight()
    weight = weigh(body)
    if weight.depth > MAX_DEPTH:
        raise InvalidRequest(f"the body has objects and lists more than {MAX_DEPTH} deep.")
    if weight.nodes > MAX_NODES:
        raise InvalidRequest(f"the body has more than {MAX_NODES} objects and lists.")
    if weight.values > limits.ids + MAX_VALUES:
        raise InvalidRequest(
            f"the body has more than {limits.ids + MAX_VALUES} values; send less in one request."
        )
    return weight


def check(
    endpoint: Endpoint, content: dict[str, Any], weight: BodyWeight, limits: ModelLimits
) -> None:
    """Check all of a request, and change it to what vLLM may see.

    Args:
        content: the parsed body, which is changed.
        weight: estimate of what is in the body.

    Raises:
        InvalidRequest: a field is refused; the error names it and says why.
    """
    if len(content) > MAX_FIELDS:
        raise InvalidRequest(f"the body has more than {MAX_FIELDS} fields.")
    check_all(rules_of(endpoint), content)
    _check_sequences(content)
    _check_parts(content)
    _check_ids(content, weight, limits)
    if endpoint is Endpoint.DETOKENIZE:
        Entries(limits.tokens, numbers=True).check("tokens", content.get("tokens"))
    if content.get("truncate_prompt_tokens") is not None and limits.context:
        # vLLM cuts a text that is much too long before it tokenizes it only if the side is named.
        content["truncation_side"] = content.get("truncation_side") or limits.side
    content.update(_FORCED.get(endpoint, {}))


def _check_parts(content: dict[str, Any]) -> None:
    """Check the length of lists within messages."""
    for name in _MESSAGE_LISTS:
        value = content.get(name)
        for entry in value if isinstance(value, list) else ():
            for parts in entry.values() if isinstance(entry, dict) else ():
                if isinstance(parts, list) and len(parts) > MAX_PARTS:
                    raise InvalidRequest(
                        f"{name}: an entry has a list of {len(parts)} parts, and may have at most "
                        f"{MAX_PARTS}.",
                        param=name,
                    )


def _check_ids(content: dict[str, Any], weight: BodyWeight, limits: ModelLimits) -> None:
    """Check prompts of token ids by their length, without looking at each id."""
    most = limits.context if content.get("truncate_prompt_tokens") is None else 0
    found = sum(_count_ids(name, content.get(name), most) for name in _IDS)
    if weight.values - found > MAX_VALUES:
        raise InvalidRequest(f"the body has more than {MAX_VALUES} values beside token ids.")


def _count_ids(name: str, value: Any, most: int) -> int:
    """Return the number of token ids in a field; a prompt has at most `most`, 0 for no bound."""
    if not isinstance(value, list) or not value or isinstance(value[0], str | dict):
        return 0
    prompts: list[Any] = value if isinstance(value[0], list) else [value]
    lists = [one for one in prompts if isinstance(one, list)]
    count, longest = sum(map(len, lists)), max(map(len, lists))
    if name != "tokens" and 0 < most < longest:
        raise InvalidRequest(
            f"This model's maximum context length is {most} tokens. However, {name} has "
            f"{longest} tokens. Please reduce its length.",
            param=name,
        )
    clean = len(lists) == len(prompts) and all(type(one) is int for ids in lists for one in ids)
    if count + len(prompts) > MANY and not clean:
        raise InvalidRequest(f"{name} has values that are not token ids.", param=name)
    return count


def check_text(text: str, limits: ModelLimits) -> None:
    """Check the length of a text to tokenize, which vLLM does not bound.

    Raises:
        InvalidRequest: the text is too long.
    """
    if len(text) > limits.characters:
        raise InvalidRequest(
            f"the text to tokenize may have at most {limits.characters} characters, not "
            f"{len(text)}; send it in pieces."
        )


def _check_sequences(content: dict[str, Any]) -> None:
    """Check the number of prompts times the answers to each."""
    prompts = sum(entries(content[name]) for name in _PROMPTS if name in content)
    answers = as_number(content.get("n")) or 1
    if prompts > 1 and prompts * answers > MAX_SEQUENCES:
        raise InvalidRequest(
            f"{prompts} prompts with {answers:g} answers each are more than {MAX_SEQUENCES}; "
            "send them in several requests.",
            param="n" if answers > 1 else "prompt",
        )
