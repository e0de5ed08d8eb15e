"""Makes the request objects of plain chats and completions without pydantic.

Most bodies use a few fields with plain values. For these the object is a copy of one that pydantic
has made, with the values of the body; its types were checked by msgspec. Every other body, valid or
not, is left to pydantic, so that its errors and conversions are vLLM's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from vllm.entrypoints.generate.base.protocol import StreamOptions
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

MANY = 256
"""Messages of a chat above which it is not a plain one."""

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_NonEmptyText = Annotated[str, msgspec.Meta(min_length=1)]
_Tokens = Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1)]


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool


class _Plain(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What plain bodies have in common; what is missing is `UNSET`, since null is a value."""

    model: str | msgspec.UnsetType | None = msgspec.UNSET
    stream: bool | msgspec.UnsetType | None = msgspec.UNSET
    stream_options: _StreamOptions | msgspec.UnsetType = msgspec.UNSET
    max_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    temperature: float | msgspec.UnsetType | None = msgspec.UNSET
    top_p: float | msgspec.UnsetType | None = msgspec.UNSET
    top_k: int | msgspec.UnsetType | None = msgspec.UNSET
    min_p: float | msgspec.UnsetType | None = msgspec.UNSET
    seed: _Int64 | msgspec.UnsetType | None = msgspec.UNSET
    presence_penalty: float | msgspec.UnsetType | None = msgspec.UNSET
    frequency_penalty: float | msgspec.UnsetType | None = msgspec.UNSET
    repetition_penalty: float | msgspec.UnsetType | None = msgspec.UNSET
    ignore_eos: bool | msgspec.UnsetType = msgspec.UNSET
    min_tokens: int | msgspec.UnsetType = msgspec.UNSET
    user: str | msgspec.UnsetType | None = msgspec.UNSET


class _Chat(_Plain, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    n: int | msgspec.UnsetType | None = msgspec.UNSET


class _Completion(_Plain, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    prompt: _NonEmptyText | _Tokens
    n: int | msgspec.UnsetType = msgspec.UNSET


Kind = TypeVar("Kind", bound=_Plain)


class Copies:
    """Makes requests as copies of one that pydantic made.

    Args:
        model: the one.
    """

    def __init__(self, model: Any) -> None:
        self._class: Any = type(model)
        # Reading a deprecated field would warn each time, and vLLM reads it several times.
        for name, field in self._class.model_fields.items():
            if field.deprecated and name in vars(self._class):
                delattr(self._class, name)
        self._values = vars(model)
        self._lists = [name for name, value in self._values.items() if type(value) is list]
        self._private = model.__pydantic_private__
        self._id = self._class.model_fields["request_id"].default_factory

    def make(self, changed: dict[str, Any], given: set[str]) -> Any:
        """Return a request.

        Args:
            changed: the values in which it differs.
            given: names of the fields that its maker has set.
        """
        request = self._class.__new__(self._class)
        values = self._values.copy()
        for name in self._lists:
            values[name] = values[name].copy()
        values |= changed
        values["request_id"] = self._id()
        put = object.__setattr__
        put(request, "__dict__", values)
        put(request, "__pydantic_fields_set__", given)
        put(request, "__pydantic_extra__", {})
        put(request, "__pydantic_private__", dict(self._private or {}))
        return request


class Short:
    """Makes the requests of plain bodies."""

    def __init__(self) -> None:
        messages: Any = [{"role": "user", "content": ""}]
        self._chats = Copies(ChatCompletionRequest(messages=messages))
        self._completions = Copies(CompletionRequest(prompt="a"))
        self._most = CompletionRequest.model_fields["max_tokens"].default

    def chat(self, content: dict[str, Any]) -> ChatCompletionRequest | None:
        """Return the request of a parsed body that has passed the gate; None if it is not plain."""
        plain = _checked(content, _Chat)
        if plain is None or len(plain.messages) > MANY:
            return None
        request: ChatCompletionRequest = self._chats.make(
            _values(plain, content, "messages"), set(content)
        )
        return request

    def completion(self, content: dict[str, Any]) -> CompletionRequest | None:
        """Return the request of a parsed body that has passed the gate; None if it is not plain."""
        plain = _checked(content, _Completion)
        if plain is None:
            return None
        request: CompletionRequest = self._completions.make(
            _values(plain, content, "prompt"), set(content)
        )
        if request.max_tokens is None or "max_tokens" not in content:
            request.max_tokens = self._most  # vLLM sets it even where it is left out
        return request


def _checked(content: dict[str, Any], kind: type[Kind]) -> Kind | None:
    try:
        plain = msgspec.convert(content, kind)
    except msgspec.ValidationError:
        return None
    return None if content.get("stream_options") and not plain.stream else plain


def _values(plain: _Plain, content: dict[str, Any], as_it_is: str) -> dict[str, Any]:
    """Return the values of a parsed body, which `plain` is a checked copy of.

    Args:
        as_it_is: the field that is taken over from the body.
    """
    values = {name: getattr(plain, name) for name in content}
    values[as_it_is] = content[as_it_is]
    if "stream_options" in content:
        values["stream_options"] = StreamOptions(**content["stream_options"])
    return values
