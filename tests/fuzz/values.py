"""Values that are sent instead of the expected ones."""

from __future__ import annotations

from typing import Any

DEEP = 50_000

# fmt: off
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 2**31, 2**32, 2**63, 2**64, -(2**63), 10**40,
    "", " ", "x", "\0", "\ud800", "tiny", "true", "0", "none", "auto", "required", "(", "\u202e",
    [], {}, [[]], [None], [0], [-1], [2**31], [""], ["x"], [{}], {"": ""}, {"x": None},
    {"type": "object"}, {"type": "json_schema"}, {"type": "json_object"}, {"role": "user"},
    {"type": "function"}, {"1": 100}, {"99999999": 1}, {"-1": -1}, {"x": {"x": {"x": []}}},
    {"do_remote_prefill": True}, {"regex": "("}, {"json": {"type": "nothing"}},
    {"grammar": "x ::="},
)
RAW = (
    "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "1" * 5000, "0x10", "01", "'x'", "nul",
    r'"\ud800"', r'"\udfff\ud800"', r'"\u0000"', '"\x01"', r'"\x"', '"\xff"', "", ",", "[", "{",
    "[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP, '{"a":1,"a":2}',
)
HEADER_VALUES = (
    b"", b" ", b"0", b"-1", b"1" * 400, b"x" * 8000, b"x" * 70_000, b"\xff\xfe", b"\xc3\xa9", b"\t",
    b"a,b,c", b"gzip", b"br, *;q=0", b"chunked", b"text/plain", b"application/json; charset=utf-7",
    b"application/json", b"100-continue", b"close", b"keep-alive, upgrade", b"websocket",
    b"bytes=0-",
    b"Bearer ", b"Basic eDp4", b"null", b"*", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01",
    b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b'"\\', b"a" * 129, b"\x7f", b"\x01",
)
QUERIES = (
    "", "limit=0", "limit=1e9", "limit=-1", "limit=x", "limit=10000", "worker=99999", "worker=%00",
    "request_id=%ff", "interval=x", "x=1", "limit=1&limit=2", "a" * 4000, "%",
    "request_id=" + "x" * 900,
)
# fmt: on

FIELDS = """
    model prompt messages input stream stream_options max_tokens n best_of max_completion_tokens
    max_output_tokens min_tokens temperature top_p top_k min_p seed stop stop_token_ids
    stop_sequences logprobs top_logprobs prompt_logprobs logit_bias presence_penalty
    frequency_penalty repetition_penalty length_penalty use_beam_search ignore_eos
    skip_special_tokens echo suffix user spaces_between_special_tokens truncate_prompt_tokens
    response_format guided_json structured_outputs guided_regex tools tool_choice
    parallel_tool_calls functions add_generation_prompt continue_final_message
    add_special_tokens documents bad_words chat_template chat_template_kwargs
    mm_processor_kwargs media_io_kwargs priority request_id session_id cache_salt
    kv_transfer_params ec_transfer_params vllm_xargs extra_args logits_processors
    allowed_token_ids prompt_embeds return_token_ids return_tokens_as_token_ids
    include_reasoning reasoning reasoning_effort thinking encoding_format dimensions normalize
    embed_dtype endianness system metadata service_tier store background previous_response_id
    instructions include text truncation modalities audio tokens return_token_strs
    kv_cache_report_mode repetition_detection thinking_token_budget data_parallel_rank
    output_kind __proto__
""".split()
"""Fields that some request class of some server has, or no class."""

HEADERS = """
    X-Request-ID X-Session-ID X-Priority X-Api-Key Authorization Content-Type Accept
    Accept-Encoding Content-Encoding Content-Language Cookie Connection Expect traceparent
    tracestate baggage User-Agent Origin Referer Range If-None-Match Upgrade TE Forwarded
    X-Forwarded-For anthropic-version X-Data-Parallel-Rank X-Stainless-Retry-Count Keep-Alive
    Via Date Transfer-Encoding Sec-WebSocket-Key Access-Control-Request-Method
""".split()

METHODS = """
    GET POST PUT DELETE HEAD OPTIONS PATCH TRACE FROB get
""".split()

READ = """
    /health /metrics /version /v1/models /v1/models/tiny /dynamo/snapshot /dynamo/decisions
    /dynamo/timeline /dynamo/record /dynamo/placement /dynamo/workers /openapi.json /docs / /v1
    /live /v1/models/%2e%2e /%00 /v1//models
""".split()
"""Paths that can be read."""

ADMIN = """
    /v1/load_lora_adapter /v1/unload_lora_adapter /sleep /wake_up /is_sleeping
    /reset_prefix_cache /dynamo/workers /dynamo/placement
""".split()
"""Paths that change a server."""
