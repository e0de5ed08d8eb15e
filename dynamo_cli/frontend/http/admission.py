"""Checks of a request before its body goes to a processor: key, headers, load, JSON. Pure."""

from __future__ import annotations

import hmac
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import orjson

from dynamo_cli.errors import Draining, InvalidRequest, NotReady, TooManyRequests, Unauthorized
from dynamo_cli.messages.request import MAX_SESSION_ID

OPEN_PATHS = frozenset({"/", "/live", "/health", "/metrics", "/version", "/docs"})
"""Paths that need no API key: what monitors ask for, and pages for people."""

FORWARDED = ("x-session-id", "x-priority", "tracestate")
"""Headers of clients that are passed on to the processor."""

RETRY_AFTER_S = 2
"""When clients should try again while the server starts or shuts down."""

MAX_MODEL_NAME = 256
"""Number of characters of the model name that logs and records keep."""

MAX_TOLD = 64
"""Number of characters of a wrong value that an error repeats."""

LARGE_BODY_BYTES = 256 * 1024
"""A larger body is only skimmed: parsing all of it would block the loop for too long."""

PROMPTS = ("prompt", "messages", "input", "instructions", "suffix", "system")
"""Fields of a body that hold text for the model."""

_Skimmed = msgspec.defstruct(
    "_Skimmed",
    [("model", Any, None), *((name, msgspec.Raw, msgspec.Raw()) for name in PROMPTS)],
)
_skim = msgspec.json.Decoder(_Skimmed).decode

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_PRIORITY = re.compile(r"[+-]?[0-9]{1,9}")


def request_id(given: str | None) -> str:
    """The client's own id if it is printable ASCII of at most 128 characters, else a new one."""
    if given is not None and _REQUEST_ID.fullmatch(given):
        return given
    return uuid.uuid4().hex


def check_key(path: str, headers: Mapping[str, str], keys: Sequence[str]) -> None:
    """Raises `Unauthorized` unless the path is open, there are no keys, or one of them is sent.

    OpenAI's clients send ``Authorization: Bearer KEY``, Anthropic's ``x-api-key: KEY``. The key is
    compared with every valid key in constant time, so that the time of an answer reveals nothing.
    """
    if not keys or path in OPEN_PATHS:
        return
    scheme, _, given = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        given = headers.get("X-Api-Key", "")
    if not given:
        raise Unauthorized("an API key is needed: send the header 'Authorization: Bearer KEY'.")
    # aiohttp decodes bytes that are not UTF-8 to surrogates.
    sent = given.strip().encode(errors="surrogateescape")
    matches = [hmac.compare_digest(sent, key.encode()) for key in keys]
    if not any(matches):
        raise Unauthorized(
            "the API key is not valid here: send one that the server was given (--api-key)."
        )


def check_serving(up: bool, draining: bool, reason: str) -> None:
    """Raises `Draining` or `NotReady` unless requests can be served; `reason` says why not."""
    if draining:
        raise Draining("the server is shutting down.", retry_after_s=RETRY_AFTER_S)
    if not up:
        raise NotReady(f"not ready: {reason}.", retry_after_s=RETRY_AFTER_S)


def check_load(in_flight: int, max_inflight: int) -> None:
    """Raises `TooManyRequests` if ``--max-inflight`` requests are in flight; 0 is no limit."""
    if max_inflight and in_flight >= max_inflight:
        raise TooManyRequests(
            f"{in_flight} requests are in flight, and --max-inflight is {max_inflight}; "
            "try again soon.",
            retry_after_s=1,
        )


def check_body(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises `InvalidRequest` if there is none."""
    if not body:
        raise InvalidRequest("the body is empty; send a JSON object.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _not_json(body, error) from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body must be a JSON object.")
    return value


def told(value: object) -> str:
    """A wrong value of a body as an error repeats it: as JSON, and not all of a long one."""
    return orjson.dumps(value).decode()[:MAX_TOLD]


def skim_body(body: bytes) -> dict[str, Any]:
    """Like `check_body`, but of a large body it gives only ``model``, and the prompts as raw JSON.

    The processor validates the rest.
    """
    if len(body) <= LARGE_BODY_BYTES:
        return check_body(body)
    try:
        found = msgspec.structs.asdict(_skim(body))
        return {name: value for name, value in found.items() if value != msgspec.Raw()}
    except msgspec.ValidationError as error:
        raise InvalidRequest("the body must be a JSON object.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(body, error) from error


def _not_json(body: bytes, error: Exception) -> InvalidRequest:
    """Say what is wrong; parsers say it badly of a body in another encoding."""
    why = str(error)
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        why = (
            f"byte {wrong.start} is not UTF-8 ({body[wrong.start]:#04x}); encode the body as UTF-8"
        )
    return InvalidRequest(f"the body is not valid JSON: {why}.")


def model_of(content: dict[str, Any]) -> str:
    """The name of the model that a body asks for; empty if it names none."""
    model = content.get("model")
    return model[:MAX_MODEL_NAME] if isinstance(model, str) else ""


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises `InvalidRequest` for an invalid priority or session id."""
    priority, session = headers.get("X-Priority"), headers.get("X-Session-ID")
    if priority is not None and not _PRIORITY.fullmatch(priority.strip()):
        raise InvalidRequest(
            "X-Priority must be a whole number of at most 9 digits, smaller is served earlier; "
            f"it is {priority[:MAX_TOLD]!a}."
        )
    if session is not None and len(session) > MAX_SESSION_ID:
        raise InvalidRequest(
            f"X-Session-ID must have at most {MAX_SESSION_ID} characters; it has {len(session)}."
        )


def forwarded(headers: Mapping[str, str], own: Mapping[str, str]) -> list[tuple[str, str]]:
    """The headers that go to the processor: those of the client in `FORWARDED`, and our own."""
    kept = [(name.lower(), value) for name, value in own.items()]
    for header in FORWARDED:
        if (value := headers.get(header)) is not None:
            kept.append((header, _text(value)))
    return kept


def session(headers: Mapping[str, str]) -> str:
    """The client's session; empty if it has none."""
    return _text(headers.get("X-Session-ID", ""))


def _text(value: str) -> str:
    """A header as Latin-1, as HTTP has it: msgpack cannot encode the surrogates of aiohttp."""
    return value.encode(errors="surrogateescape").decode("latin-1")
