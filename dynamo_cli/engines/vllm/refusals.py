"""Turns exceptions of vLLM into our errors: at the start of an engine or processor, and at
requests.

vLLM, transformers, safetensors, pydantic and plugins raise all kinds of exceptions, some with a
hundred lines of text. Here each becomes one sentence. If a start fails, the log has the traceback
at level debug (`supervisor/entry.py`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from vllm.exceptions import VLLMClientError, VLLMError

from dynamo_cli.errors import (
    DynamoError,
    InternalError,
    InvalidRequest,
    ModelError,
    ResourceError,
    StartError,
    UsageError,
)
from dynamo_cli.host import oserrors

_EXPECTED = (
    *(ValueError, TypeError, NotImplementedError, LookupError, ImportError, AttributeError),
    *(OSError, SyntaxError, SafetensorError, VLLMError),
)
"""Exceptions that wrong options and broken models cause. Other exceptions may be bugs of vLLM."""

_LESS = "Lower --kv-cache-memory-bytes or --max-model-len, or use fewer workers."
_OTHER = "Give a Hugging Face id, a folder with config.json, or try --model demo."

_LONG_LIST = re.compile(r"\S*\[[^\]]{1000,}\]\)?")

_LONGEST = 400
"""Most characters of a reason. Some messages list all values that would have been valid."""

logger = logging.getLogger(__name__)


@contextmanager
def named(model: str) -> Iterator[None]:
    """Turn any exception in the block into an error that says what is wrong with model or options.

    Raises:
        UsageError, ModelError, ResourceError, StartError: in place of that exception.
    """
    try:
        yield
    except DynamoError:
        raise
    # Whatever it is, it ends this start, and the user must learn why.
    except Exception as error:
        raise refusal(error, model) from error


def refusal(error: BaseException, model: str) -> DynamoError:
    """One of our errors for an exception of a library."""
    if isinstance(error, OSError) and error.errno is not None:
        return oserrors.named(error)
    text = _ended(reason(error))
    kind: type[DynamoError] = ModelError
    said = f"vLLM cannot use the model {model!r} with these options: {text}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        kind = ResourceError
        said = f"not enough memory for the model {model!r}: {text} {_LESS}"
    elif isinstance(error, ValidationError):
        kind = UsageError
    elif isinstance(error, ValueError | RuntimeError) and "memory" in text.lower():
        kind = ResourceError
    elif isinstance(error, OSError):
        said = f"the model {model!r} cannot be read: {text} {_OTHER}"
    elif not isinstance(error, _EXPECTED):
        kind = StartError
        said += " --log-level debug shows where."
    return kind(said)


def of_request(error: Exception) -> InvalidRequest | InternalError:
    """The error for a request that an engine does not take: the client's mistake, or a bug."""
    if isinstance(error, ValueError | TypeError | VLLMClientError):
        return InvalidRequest(reason(error))
    logger.error("an engine did not take a request", exc_info=error)
    return InternalError(f"the engine did not take this request: {reason(error)}.")


def reason(error: BaseException) -> str:
    """What went wrong and its cause, in one line."""
    if isinstance(error, ValidationError):
        return _shortened(_fields(error))
    text = _message(error)
    cause = error.__cause__
    if cause is not None and (below := reason(cause)) not in text:
        text = f"{text.rstrip('.')}: {below}"
    return _shortened(text)


def _fields(error: ValidationError) -> str:
    """Each invalid field: ``stream_interval: Input should be greater than or equal to 1``."""
    found = []
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(map(str, one["loc"]))
        what = one["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        found.append(f"{where}: {_first_line(what)}" if where else _first_line(what))
    return "; ".join(found)


def _message(error: BaseException) -> str:
    """The text of an exception; with its type if the text alone would say too little."""
    text = _first_line(str(error.args[0] if isinstance(error, KeyError) else error))
    if not text:
        return type(error).__name__
    if isinstance(error, LookupError | AttributeError) and " " not in text:
        return f"{type(error).__name__}: {text}"  # only the name of what was looked up
    return text if isinstance(error, (*_EXPECTED, VLLMError)) else f"{type(error).__name__}: {text}"


def _first_line(text: str) -> str:
    """The first line that is not empty; and the next one if the first ends with a colon."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    return f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def _shortened(text: str) -> str:
    text = _LONG_LIST.sub("too many to list here", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
