"""Replaces what is slow in the ways in which vLLM turns text into tokens and back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import TokenizersBackend
from vllm.renderers.base import BaseRenderer
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer

from dynamo_cli.engines.vllm.front.token_memory import TokenMemory, ending

_ENCODES = ("__call__", "_encode_plus")
_BASES = ("transformers.tokenization_utils_base", "transformers.tokenization_utils_tokenizers")
_WRAPPERS = "vllm.tokenizers.hf"

logger = logging.getLogger(__name__)

Tokenize = Callable[[Any, Any], Any]


def memory_of(tokenizer: Any) -> TokenMemory | None:
    """Return a memory that gives the tokens of a tokenizer; None if none can."""
    backend = _backend(tokenizer)
    if backend is None:
        return None
    memory = TokenMemory(backend)
    if not _agrees(memory, tokenizer):
        logger.warning(
            "token ids of texts are not cached, because this tokenizer has special rules"
        )
        return None
    return memory


def remembering(renderer: BaseRenderer, memory: TokenMemory | None) -> Tokenize:
    """Return the renderer's function that tokenizes a prompt, with a memory.

    Where the memory could give other tokens than the function, the function does it.
    """
    tokenize: Tokenize = renderer._tokenize_prompt
    if memory is None:
        return tokenize
    adds = renderer.tokenizer.num_special_tokens_to_add(False) > 0

    def run(prompt: Any, params: Any) -> Any:
        wanted = params.get_encode_kwargs()
        if (adds and wanted["add_special_tokens"]) or renderer._wants_offsets(prompt, params):
            return tokenize(prompt, params)
        tokens = memory.encode(prompt["prompt"])
        if wanted["truncation"] and len(tokens) > wanted["max_length"]:
            return tokenize(prompt, params)
        return {"prompt_token_ids": tokens, **prompt}

    return run


def _backend(tokenizer: Any) -> Tokenizer | None:
    """Return the tokenizer of the `tokenizers` library that does all of the work, if one does."""
    if not isinstance(tokenizer, TokenizersBackend) or tokenizer.split_special_tokens:
        return None
    if any(_defined_in(type(tokenizer), name) not in _BASES for name in _ENCODES):
        return None
    backend: Tokenizer = tokenizer._tokenizer
    return backend


def _defined_in(kind: type, name: str) -> str:
    """Return the module of the class that defines a method, without the wrappers of vLLM."""
    return next(
        base.__module__
        for base in kind.__mro__
        if name in vars(base) and base.__module__ != _WRAPPERS
    )


def _agrees(memory: TokenMemory, tokenizer: Any) -> bool:
    """Whether a text of all special tokens and some words gives the tokens that it should."""
    text = " a\n".join(["Hello", *memory.cuts, " wörld. "])
    wanted: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return memory.encode(text) == wanted


class _Ending(NamedTuple):
    """What vLLM's detokenizer reads of a request, with only the end of its prompt."""

    request_id: str
    sampling_params: Any
    prompt_token_ids: list[int]


def install() -> None:
    """Have streams be decoded from the ends of their prompts.

    vLLM's detokenizer decodes the whole prompt twice at the first token.
    """
    begin = FastIncrementalDetokenizer.__init__
    if hasattr(begin, "short"):
        return

    def run(self: Any, tokenizer: Any, request: Any) -> None:
        tokens, params = request.prompt_token_ids, request.sampling_params
        if tokens is not None:
            end = ending(tokenizer._tokenizer, tokens, skip_special=params.skip_special_tokens)
            request = _Ending(request.request_id, params, end)
        begin(self, tokenizer, request)

    run.short = True  # type: ignore[attr-defined]
    FastIncrementalDetokenizer.__init__ = run
