"""The bodies of requests. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import msgspec

from dynamo_cli.lab.load.workload import LoadRequest


class ApiPath(StrEnum):
    """The endpoint of OpenAI's API that is used; the value is its path after ``/v1``."""

    CHAT = "/chat/completions"
    COMPLETIONS = "/completions"


class Form(NamedTuple):
    """How requests to one server are written.

    Attributes:
        model: name of the model.
        api: endpoint.
        exact: whether answers get exactly the wanted number of tokens, by an extension of vLLM's
            that most engines have. Without it they may end earlier.
    """

    model: str
    api: ApiPath = ApiPath.CHAT
    exact: bool = True

    def body(self, ask: LoadRequest, *, stream: bool = True) -> bytes:
        """Return the JSON body of a request, with greedy sampling so that answers are
        repeatable."""
        body: dict[str, object] = {
            "model": self.model,
            "max_tokens": ask.output_tokens,
            "temperature": 0,
            "stream": stream,
        }
        if self.api is ApiPath.CHAT:
            body["messages"] = ask.messages
        else:
            body["prompt"] = "\n".join(message["content"] for message in ask.messages)
        if stream:
            body["stream_options"] = {"include_usage": True}
        if self.exact:
            body["ignore_eos"] = True
            body["min_tokens"] = ask.output_tokens
        return msgspec.json.encode(body)
