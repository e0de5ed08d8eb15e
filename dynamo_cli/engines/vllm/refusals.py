"""Whatever vLLM raises while an engine or its front half is built, as one error of ours.

vLLM, transformers, safetensors, pydantic and plugins of the user's raise what they like, some of it
in a hundred lines. Here each gets the sentence that matters; the traceback is in the log at level
debug (`supervisor/entry.py`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from vllm.exceptions import VLLMError

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
"""What a wrong option or a broken model ends in; others may well be vLLM's own faults."""

_LESS = "Lower --kv-cache-memory-bytes or --max-model-len, or use fewer workers."
_OTHER = "Give a Hugging Face id, a folder with config.json, or try --model demo."

_LONG_LIST = re.compile(r"\S*\[[^\]]{1000,}\]\)?")

_LONGEST = 400
"""Characters of a reason. Some messages list everything that would have been right."""

logger = logging.getLogger(__name__)


@contextmanager
def named(model: str) -> Iterator[None]:
    """Turn every exception of the block into one that says what is wrong with `model` or options.

    Raises:
        UsageError, ModelError, ResourceError, StartError: instead of it.
    """
    try:
        yield
    except DynamoError:
        raise
    # Whatever it is, it ends this start, and the user wants to know why.
    except Exception as error:
        raise refusal(error, model) from error


def refusal(error: BaseException, model: str) -> DynamoError:
    """The error of ours for one of somebody else's."""
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
    """The error of a request that an engine does not take: of what it asks, or a bug."""
    if isinstance(error, ValueError | TypeError):
        return InvalidRequest(reason(error))
    logger.error("an engine did not take a request", exc_info=error)
    return InternalError(f"the engine did not take this request: {reason(error)}.")


def reason(error: BaseException) -> str:
    """One line: what went wrong, and what was the cause of that."""
    if isinstance(error, ValidationError):
        return _shortened(_fields(error))
    text = _message(error)
    cause = error.__cause__
    if cause is not None and (below := reason(cause)) not in text:
        text = f"{text.rstrip('.')}: {below}"
    return _shortened(text)


def _fields(error: ValidationError) -> str:
    """``stream_interval: Input should be greater than or equal to 1``, for each that is wrong."""
    found = []
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(map(str, one["loc"]))
        what = one["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        found.append(f"{where}: {_first_line(what)}" if where else _first_line(what))
    return "; ".join(found)


def _message(error: BaseException) -> str:
    """The words of an exception; with its type where they are nothing without it."""
    text = _first_line(str(error.args[0] if isinstance(error, KeyError) else error))
    if not text:
        return type(error).__name__
    if isinstance(error, LookupError | AttributeError) and " " not in text:
        return f"{type(error).__name__}: {text}"  # only the name of what was looked up
    return text if isinstance(error, (*_EXPECTED, VLLMError)) else f"{type(error).__name__}: {text}"


def _first_line(text: str) -> str:
    """The line that says something; a line that ends with a colon says it with the next one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    return f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]


def _shortened(text: str) -> str:
    text = _LONG_LIST.sub("too many to list here", text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _ended(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
