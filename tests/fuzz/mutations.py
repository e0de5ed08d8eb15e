"""Malformed requests, and some valid ones. Pure: the seed determines them.

Each is a valid request with one or two things wrong.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dynamo_cli.units import MIB
from tests.fuzz.shot import Shot
from tests.fuzz.values import (
    ADMIN,
    FIELDS,
    HEADER_VALUES,
    HEADERS,
    METHODS,
    QUERIES,
    RAW,
    READ,
    VALUES,
)

HOST = "127.0.0.1"
LEAVE_PART = 0.03
"""Share of clients that leave before the answer."""

JSON = "application/json"
MARK = "@@mark@@"
"""Placeholder in a body for text that a JSON encoder would not write."""

CHAT = [{"role": "user", "content": "a river and a stone"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}
BODIES: tuple[tuple[str, Any], ...] = (
    ("/v1/completions", {"prompt": "a river and a stone", "max_tokens": 4}),
    ("/v1/completions", {"prompt": [1, 2, 3], "max_tokens": 4, "logprobs": 1, "stream": True}),
    ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 2, "stop": ["e"]}),
    ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 4}),
    (
        "/v1/chat/completions",
        {
            "messages": CHAT,
            "max_tokens": 4,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 2,
        },
    ),
    ("/v1/chat/completions", {"messages": CHAT, "max_tokens": 4, "tools": [TOOL]}),
    ("/v1/responses", {"input": "a river", "max_output_tokens": 4}),
    ("/v1/responses", {"input": CHAT, "max_output_tokens": 4, "stream": True}),
    ("/v1/messages", {"model": "tiny", "messages": CHAT, "max_tokens": 4}),
    (
        "/v1/messages",
        {"model": "tiny", "messages": CHAT, "max_tokens": 4, "stream": True, "system": "be short"},
    ),
    ("/v1/messages/count_tokens", {"model": "tiny", "messages": CHAT}),
    ("/v1/embeddings", {"input": "a river", "encoding_format": "base64"}),
    ("/tokenize", {"prompt": "a river", "return_token_strs": True}),
    ("/tokenize", {"messages": CHAT}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
)


def shots(seed: int, key: str = "") -> Iterator[Shot]:
    """Yield requests without end; the same seed gives the same ones.

    Args:
        key: API key of the server; empty if it needs none.
    """
    dice = random.Random(seed)
    kinds = [kind for kind, weight in KINDS for _ in range(weight)]
    while True:
        kind = dice.choice(kinds)
        raw = kind(dice, key)
        yield Shot(kind.__name__, raw, leave=dice.random() < LEAVE_PART)


def largest(seed: int, count: int, key: str = "") -> list[Shot]:
    """Return requests that take the most memory."""
    dice = random.Random(seed)
    return [Shot(long_text.__name__, long_text(dice, key)) for _ in range(count)]


def wire(
    method: str,
    path: str,
    body: bytes = b"",
    headers: Sequence[tuple[str, bytes]] = (),
    key: str = "",
    version: str = "1.1",
) -> bytes:
    """Return a request as bytes, with default headers for those that `headers` does not name."""
    named = {name.lower() for name, _ in headers}
    lines = [
        f"{method} {path} HTTP/{version}".encode("latin-1", "replace"),
        f"Host: {HOST}".encode(),
    ]
    if body and "content-type" not in named:
        lines.append(f"Content-Type: {JSON}".encode())
    if key and "authorization" not in named:
        lines.append(f"Authorization: Bearer {key}".encode())
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}".encode())
    lines += [name.encode() + b": " + value for name, value in headers]
    if "connection" not in named:
        lines.append(b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


# -- kinds -------------------------------------------------------------------------------------


def valid(dice: random.Random, key: str) -> bytes:
    """A valid request, which must still be answered among all the others."""
    path, body = dice.choice(BODIES)
    return wire("POST", path, _dump(body), key=key)


def wrong_value(dice: random.Random, key: str) -> bytes:
    """A value of another type or size at some depth."""
    path, body = _picked(dice)
    for _ in range(dice.choice((1, 1, 2))):
        _put(body, dice, dice.choice(VALUES))
    return wire("POST", path, _dump(body), key=key)


def odd_field(dice: random.Random, key: str) -> bytes:
    """A field that some request class has, or no class."""
    path, body = _picked(dice)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        body[dice.choice(FIELDS)] = copy.deepcopy(dice.choice(VALUES))
    return wire("POST", path, _dump(body), key=key)


def raw_value(dice: random.Random, key: str) -> bytes:
    """JSON that an encoder would not write: huge numbers, NaN, surrogates, NUL, deep nesting."""
    path, body = _picked(dice)
    if dice.random() < 0.5:
        _put(body, dice, MARK)
    else:
        body[dice.choice(FIELDS)] = MARK
    text = json.dumps(body).replace(json.dumps(MARK), dice.choice(RAW), 1)
    return wire("POST", path, text.encode("latin-1", "replace"), key=key)


def long_text(dice: random.Random, key: str) -> bytes:
    """A string of a MiB instead of a short one."""
    path, body = _picked(dice)
    _put(body, dice, dice.choice("a \0é\n(") * dice.choice((MIB, MIB // 3)))
    return wire("POST", path, _dump(body), key=key)


def twice(dice: random.Random, key: str) -> bytes:
    """A key that appears twice, with different values."""
    path, body = _picked(dice)
    name = dice.choice([*body, *FIELDS])
    other = json.dumps({name: dice.choice(VALUES)})
    return wire("POST", path, (json.dumps(body)[:-1] + ", " + other[1:]).encode(), key=key)


def damaged(dice: random.Random, key: str) -> bytes:
    """Bytes that are no JSON, or no JSON object."""
    path, body = _picked(dice)
    data = bytearray(_dump(body))
    match dice.randrange(6):
        case 0:
            data = data[: dice.randrange(len(data))]
        case 1:
            for _ in range(dice.randrange(1, 5)):
                data[dice.randrange(len(data))] = dice.randrange(256)
        case 2:
            data = bytearray(b"\xef\xbb\xbf") + data
        case 3:
            data = bytearray(json.dumps(body).encode("utf-16"))
        case 4:
            data += bytearray(dice.choice((b"{}", b"\0", b"]", b" " * 1000)))
        case 5:
            data = bytearray(_dump(dice.choice(VALUES)))
    return wire("POST", path, bytes(data), key=key)


def odd_header(dice: random.Random, key: str) -> bytes:
    """Headers that the server reads, with all kinds of values; sometimes twice."""
    path, body = dice.choice(BODIES)
    headers = [
        (dice.choice(HEADERS), dice.choice(HEADER_VALUES)) for _ in range(dice.choice((1, 1, 2, 3)))
    ]
    if dice.random() < 0.1:
        headers.append((headers[0][0], dice.choice(HEADER_VALUES)))
    return wire("POST", path, _dump(body), headers, key)


def odd_line(dice: random.Random, key: str) -> bytes:
    """Methods, versions, queries and paths of all kinds."""
    paths = [*READ, *ADMIN, *(path for path, _ in BODIES)]
    path, query = dice.choice(paths), dice.choice(QUERIES)
    method = dice.choice(METHODS) if dice.random() < 0.5 else "GET"
    version = dice.choice(("1.1", "1.1", "1.0"))
    return wire(method, f"{path}?{query}" if query else path, key=key, version=version)


def administration(dice: random.Random, key: str) -> bytes:
    """Operations that change a server which does not allow them."""
    body: Any = {dice.choice(("lora_name", "workers", "level", *FIELDS[:3])): dice.choice(VALUES)}
    return wire("POST", dice.choice(ADMIN), _dump(body), key=key)


Kind = Callable[[random.Random, str], bytes]
KINDS: tuple[tuple[Kind, int], ...] = (
    (valid, 6),
    (wrong_value, 24),
    (odd_field, 28),
    (raw_value, 12),
    (long_text, 1),
    (twice, 5),
    (damaged, 8),
    (odd_header, 12),
    (odd_line, 8),
    (administration, 2),
)


# -- parts -------------------------------------------------------------------------------------


def _picked(dice: random.Random) -> tuple[str, dict[str, Any]]:
    path, body = dice.choice(BODIES)
    return path, copy.deepcopy(body)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every (container, key) below a value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, below in list(pairs):
        yield value, name
        if isinstance(below, dict | list):
            yield from _places(below)


def _put(body: dict[str, Any], dice: random.Random, value: Any) -> None:
    if places := list(_places(body)):
        container, name = dice.choice(places)
        container[name] = copy.deepcopy(value)


def _dump(value: Any) -> bytes:
    """Encode as ASCII, so that lone surrogates become escapes."""
    return json.dumps(value).encode()
