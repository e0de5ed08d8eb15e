"""Makes the sampling parameters of like requests once.

vLLM converts and checks 40 values for each request. Most requests of a server have the same few
values, so their parameters are copies of some that vLLM has made.
"""

from __future__ import annotations

import copy
from functools import wraps
from operator import itemgetter
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

from dynamo_cli.engines.vllm.front import message_requests

CHOSEN = (
    *("max_tokens", "stream", "n", "temperature", "top_p", "top_k", "min_p", "ignore_eos"),
    *("min_tokens", "presence_penalty", "frequency_penalty", "repetition_penalty"),
)
"""Fields that plain requests choose."""

REST = frozenset(
    {
        *("messages", "prompt", "model", "request_id", "user", "stream_options"),
        *("max_completion_tokens", "session_id", "priority", "cache_salt"),
    }
)
"""Fields on which the parameters do not depend. vLLM passes the number of tokens separately."""

MOST = 256
"""Parameters that are remembered; then they are forgotten all at once."""


def remembering(convert: message_requests.Convert, *plain: Any) -> message_requests.Convert:
    """Return `convert`, a method that makes sampling parameters, with a memory.

    Args:
        plain: requests; one that differs from each of them in fields that are not `CHOSEN` has its
            parameters made anew.
    """
    known: dict[tuple[Any, ...], Any] = {}
    chosen = itemgetter(*CHOSEN)
    others = itemgetter(*(vars(plain[0]).keys() - REST.union(CHOSEN)))
    plain_others, private = [others(vars(one)) for one in plain], plain[0].__pydantic_private__

    @wraps(convert)
    def run(request: Any, max_tokens: int, defaults: dict[str, Any]) -> Any:
        values = vars(request)
        rest = others(values)
        which = next((number for number, one in enumerate(plain_others) if one == rest), None)
        if which is None or request.__pydantic_private__ != private:
            return convert(request, max_tokens, defaults)
        key = (which, id(defaults), max_tokens, chosen(values))
        if (made := known.get(key)) is None:
            if len(known) >= MOST:
                known.clear()
            made = known[key] = convert(request, max_tokens, defaults)
        return _copied(made)

    return run


def _copied(made: Any) -> Any:
    """Return a copy that shares nothing that is changed later."""
    params = copy.copy(made)
    params.stop, params.bad_words = [*made.stop], [*made.bad_words]
    params.stop_token_ids = [*made.stop_token_ids]
    params._all_stop_token_ids = {*made._all_stop_token_ids}
    return params


def install() -> None:
    """Let vLLM's requests for chats and for completions remember their parameters."""
    messages: Any = [{"role": "user", "content": ""}]
    chat = ChatCompletionRequest(messages=messages)
    for plain in ([chat, message_requests.plain_chat()], [CompletionRequest(prompt="a")]):
        kind: Any = type(plain[0])
        if not hasattr(kind.to_sampling_params, "__wrapped__"):
            kind.to_sampling_params = remembering(kind.to_sampling_params, *plain)
