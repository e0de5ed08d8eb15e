"""What vLLM's serving classes are called with and return, as messages of ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any

from starlette.datastructures import State
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dynamo_cli import shapes
from dynamo_cli.engines.vllm.front import inline
from dynamo_cli.engines.vllm.front.failures import JSON, raise_response
from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.messages.request import Finish, Reply, Submit

_VLLM_HEADERS = {"x-priority": "x-vllm-priority"}


class _Headers(dict[str, str]):
    """Headers by their names in lower case."""

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name.lower() if isinstance(name, str) else name)

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


class _RawRequest:
    """What vLLM's classes use of an HTTP request; the rest is made when it is asked for."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self.headers = _Headers(
            (_VLLM_HEADERS.get(name, name), value) for name, value in submit.headers
        )
        self.state = State()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)

    @cached_property
    def _whole(self) -> Request:
        headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in self.headers.items()
        ]
        scope = {
            "type": "http",
            "headers": headers,
            "method": "POST",
            "path": self._submit.endpoint,
        }
        return Request(scope)


def raw_request(submit: Submit) -> Any:
    """Return the HTTP request whose headers vLLM's classes read and whose `state` they write to."""
    return _RawRequest(submit)


async def reply_of(trace: RequestTrace, answer: Any) -> Reply:
    """Return a whole answer of one of vLLM's classes.

    Raises:
        EventError: the answer is an error.
    """
    if isinstance(answer, Reply):
        return answer
    raise_response(answer)
    if not isinstance(answer, Response):
        brief = trace.path in shapes.ANTHROPIC  # optional fields are left out there, never null
        body = answer.model_dump_json(by_alias=True, exclude_none=brief).encode()
        return Reply(trace.request_id, 200, JSON, body)
    if isinstance(answer, StreamingResponse):  # embeddings as bytes, all of which are there already
        body = b"".join([_bytes(part) async for part in answer.body_iterator])
    else:
        body = bytes(answer.body)
    own = dict(answer.headers)
    content_type = own.pop("content-type", JSON)
    own.pop("content-length", None)
    return Reply(
        trace.request_id, answer.status_code, content_type, body, headers=tuple(own.items())
    )


def _bytes(part: Any) -> bytes:
    return part.encode() if isinstance(part, str) else bytes(part)


def finish_of(trace: RequestTrace) -> Finish:
    """Return the end of a stream, with usage, times, moves and the like from the trace."""
    return Finish(
        trace.request_id,
        trace.usage(),
        trace.error,
        trace.served_by,
        trace.finish_reason,
        trace.timeline(),
        trace.recorded(),
        tuple(trace.moves),
    )


def reply_in_thread(make: Callable[[], Awaitable[Any]], trace: RequestTrace) -> Reply:
    """Have one of vLLM's classes make an answer that needs no engine now, completely in this
    thread, which is one of a lane."""

    async def answer() -> Reply:
        return await reply_of(trace, await make())

    reply: Reply = inline.run(answer())
    return reply
