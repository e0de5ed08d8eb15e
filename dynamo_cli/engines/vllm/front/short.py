"""Makes the request objects of plain chats without pydantic.

Most bodies use a few fields with plain values. For these the object is a copy of one that pydantic
has made, with the values of the body; its types were checked by msgspec. Every other body, valid or
not, is left to pydantic, so that its errors and conversions are vLLM's.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from vllm.entrypoints.generate.base.protocol import StreamOptions
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

MANY = 256
"""Messages of a chat above which it is not a plain one."""

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    include_usage: bool


class _Chat(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A plain chat; what is missing is `UNSET`, since null is a value."""

    messages: list[_Message]
    model: str | msgspec.UnsetType | None = msgspec.UNSET
    stream: bool | msgspec.UnsetType | None = msgspec.UNSET
    stream_options: _StreamOptions | msgspec.UnsetType = msgspec.UNSET
    max_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    max_completion_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    temperature: float | msgspec.UnsetType | None = msgspec.UNSET
    top_p: float | msgspec.UnsetType | None = msgspec.UNSET
    top_k: int | msgspec.UnsetType | None = msgspec.UNSET
    min_p: float | msgspec.UnsetType | None = msgspec.UNSET
    n: int | msgspec.UnsetType | None = msgspec.UNSET
    seed: _Int64 | msgspec.UnsetType | None = msgspec.UNSET
    presence_penalty: float | msgspec.UnsetType | None = msgspec.UNSET
    frequency_penalty: float | msgspec.UnsetType | None = msgspec.UNSET
    repetition_penalty: float | msgspec.UnsetType | None = msgspec.UNSET
    ignore_eos: bool | msgspec.UnsetType = msgspec.UNSET
    min_tokens: int | msgspec.UnsetType = msgspec.UNSET
    user: str | msgspec.UnsetType | None = msgspec.UNSET


_NAMES = tuple(name for name in _Chat.__struct_fields__ if name != "messages")


class Short:
    """Makes requests as copies of one that pydantic made."""

    def __init__(self) -> None:
        # Reading a deprecated field would warn each time, and vLLM reads it several times.
        for name, field in ChatCompletionRequest.model_fields.items():
            if field.deprecated and name in vars(ChatCompletionRequest):
                delattr(ChatCompletionRequest, name)
        model = ChatCompletionRequest(messages=[{"role": "user", "content": ""}])
        self._values = vars(model)
        self._lists = [name for name, value in self._values.items() if type(value) is list]
        self._private = model.__pydantic_private__
        self._id = ChatCompletionRequest.model_fields["request_id"].default_factory

    def chat(self, content: dict[str, Any]) -> ChatCompletionRequest | None:
        """Return the request of a parsed body that has passed the gate; None if it is not plain."""
        try:
            plain = msgspec.convert(content, _Chat)
        except msgspec.ValidationError:
            return None
        if len(plain.messages) > MANY or (content.get("stream_options") and not plain.stream):
            return None
        request = ChatCompletionRequest.__new__(ChatCompletionRequest)
        values = self._values.copy()
        for name in self._lists:
            values[name] = values[name].copy()
        for name in _NAMES:
            if name in content:
                values[name] = getattr(plain, name)
        values["messages"] = content["messages"]
        values["request_id"] = self._id()
        if "stream_options" in content:
            values["stream_options"] = StreamOptions(**content["stream_options"])
        put = object.__setattr__
        put(request, "__dict__", values)
        put(request, "__pydantic_fields_set__", set(content))
        put(request, "__pydantic_extra__", {})
        put(request, "__pydantic_private__", dict(self._private or {}))
        return request
