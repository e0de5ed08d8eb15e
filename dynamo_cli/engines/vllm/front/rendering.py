"""Turns plain chats and completions into tokens, without the steps that these do not need.

vLLM passes a chat through a dozen functions that resolve, merge and check what depends on the
server alone. Here this is done once. A chat is plain if its messages are the only field that has to
do with the prompt, and a completion if its one prompt is; every other one, and every one that
fails, takes vLLM's way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

from transformers.utils import chat_template_utils
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.renderers import hf
from vllm.renderers.chat_utils import parse_chat_messages
from vllm.renderers.params import merge_kwargs
from vllm.v1.engine.async_llm import AsyncLLM

from dynamo_cli.engines.vllm.front.inline import is_in_place
from dynamo_cli.engines.vllm.front.token_memory import TokenMemory

OF_THE_PROMPT = frozenset(
    {
        *("tools", "tool_choice", "documents", "chat_template", "chat_template_kwargs"),
        *("add_generation_prompt", "continue_final_message", "add_special_tokens", "echo"),
        *("reasoning_effort", "include_reasoning", "response_format", "structured_outputs"),
        *("media_io_kwargs", "mm_processor_kwargs", "mm_payload", "return_mm_kwargs"),
        *("truncate_prompt_tokens", "truncation_side", "return_token_offsets"),
        *("cache_salt", "kv_transfer_params", "ec_transfer_params"),
    }
)
"""Fields of a chat that vLLM reads while it makes the prompt; a plain chat has none of them."""

DEFAULTS = {
    name: field.get_default(call_default_factory=True)
    for name, field in ChatCompletionRequest.model_fields.items()
    if name in OF_THE_PROMPT
}
"""What these fields are if they are left out, which is what null means too."""

OF_A_COMPLETION = OF_THE_PROMPT | {"suffix", "prompt_embeds", "prompt_logprobs"}
"""The same of a completion."""

DEVELOPER = "developer"
"""The role that vLLM renames for templates that do not know it."""

BILLING = "x-anthropic-"
"""How a line of a client begins that vLLM removes from system messages."""

logger = logging.getLogger(__name__)


class _Recorder:
    """Stands for a template, and keeps what it is rendered with."""

    def render(self, **values: Any) -> str:
        self.values = values
        return ""


class Renderer:
    """Renders plain chats.

    Args:
        llm: its model and tokenizer.
        serving: vLLM's object for chats.
        memory: tokenizes the rendered text.
    """

    def __init__(self, llm: AsyncLLM, serving: OpenAIServingChat, memory: TokenMemory) -> None:
        self._memory = memory
        self._model = llm.model_config
        self._tokenizer = llm.renderer.tokenizer
        request = ChatCompletionRequest(messages=[{"role": "user", "content": "a"}])
        params = request.build_chat_params(
            serving.chat_template, serving.chat_template_content_format
        ).with_defaults(
            merge_kwargs(serving.default_chat_template_kwargs, {"tools": None, "tokenize": False})
        )
        self._format = hf.resolve_chat_template_content_format(
            params.chat_template,
            None,
            params.chat_template_content_format,
            self._tokenizer,
            model_config=self._model,
        )
        recorder, compiled = _Recorder(), []
        compile_template = chat_template_utils._compile_jinja_template

        def record(template: str) -> _Recorder:
            compiled.append(compile_template(template))
            return recorder

        with mock.patch.object(chat_template_utils, "_compile_jinja_template", record):
            hf.safe_apply_chat_template(
                self._model,
                self._tokenizer,
                [{"role": "user", "content": "a"}],
                **params.get_apply_chat_template_kwargs(),
            )
        self._template, self._values = compiled[0], recorder.values
        # Each rendering copies them, which takes longer for the chain of mappings that they are.
        self._template.globals = dict(self._template.globals)

    def render(self, request: ChatCompletionRequest) -> tuple[list[Any], list[Any]] | None:
        """Return the conversation and the input of the engine; None if the chat is not plain."""
        messages = request.messages
        if (
            not has_plain_prompt(request)
            or not messages
            or any(one["role"] == DEVELOPER for one in messages)
        ):
            return None
        arrived, longest = time.time(), self._model.max_model_len
        conversation = self._parse(messages)
        text = self._template.render(**{**self._values, "messages": conversation})
        if len(text) > longest * self._tokenizer.max_chars_per_token:
            return None
        tokens = self._memory.encode(text)
        output = request.max_completion_tokens
        output = (request.max_tokens if output is None else output) or 0
        if max(len(tokens), output) > longest:
            return None
        made = {"type": "token", "prompt_token_ids": tokens, "prompt": text}
        return conversation, [{**made, "arrival_time": arrived}]

    def _parse(self, messages: list[Any]) -> list[Any]:
        """Return the conversation that the template gets."""
        if self._format == "string" and all(map(_is_plain, messages)):
            return [{"role": one["role"], "content": one["content"]} for one in messages]
        conversation, _, _ = parse_chat_messages(messages, self._model, self._format)
        parsed: list[Any] = conversation
        return parsed


def _is_plain(message: Any) -> bool:
    """Whether the template gets a message as it is."""
    if type(message) is not dict or len(message) != 2 or "role" not in message:
        return False
    content = message.get("content")
    if type(content) is not str:
        return False
    role = message["role"]
    return role in ("user", "assistant") or (role == "system" and not content.startswith(BILLING))


def has_plain_prompt(request: ChatCompletionRequest) -> bool:
    """Whether nothing but the messages of a chat has to do with its prompt."""
    special = OF_THE_PROMPT.intersection(request.model_fields_set)
    values = vars(request)
    return all(values.get(name) in (None, DEFAULTS.get(name)) for name in special)


class PromptReader:
    """Tokenizes the prompts of plain completions.

    Args:
        llm: its model and tokenizer, which adds no special tokens.
        memory: tokenizes the text.
    """

    def __init__(self, llm: AsyncLLM, memory: TokenMemory) -> None:
        self._memory = memory
        self._longest = llm.model_config.max_model_len
        self._most_letters = self._longest * llm.renderer.tokenizer.max_chars_per_token

    def render(self, request: CompletionRequest) -> list[Any] | None:
        """Return the input of the engine; None if the completion is not plain."""
        prompt = request.prompt
        if not prompt or OF_A_COMPLETION.intersection(request.model_fields_set):
            return None
        made: dict[str, Any] = {"type": "token", "arrival_time": time.time()}
        if isinstance(prompt, str):
            if len(prompt) > self._most_letters:
                return None
            made |= {"prompt_token_ids": self._memory.encode(prompt), "prompt": prompt}
        elif type(prompt[0]) is int:
            made["prompt_token_ids"] = prompt
        else:
            return None
        if max(len(made["prompt_token_ids"]), request.max_tokens or 0) > self._longest:
            return None
        return [made]


def install(
    llm: AsyncLLM, chats: Iterable[Any], completion: Any, memory: TokenMemory | None
) -> None:
    """Let vLLM's objects for chats and for completions render short plain ones directly.

    Args:
        chats: the objects for chats, and for messages, which become chats.
    """
    known = [one for one in chats if type(one) in (OpenAIServingChat, AnthropicServingMessages)]
    for chat in known:
        chat._effective_chat_template_kwargs = _template_arguments(chat)
    if (
        memory is None
        or not isinstance(llm.renderer, hf.HfRenderer)
        or llm.model_config.is_multimodal_model
        or llm.model_config.enable_prompt_embeds
    ):
        return
    for chat in known:
        online = chat.online_renderer
        if (
            online.parser is None
            and not online.use_harmony
            and (renderer := _renderer(llm, chat, memory)) is not None
        ):
            chat.render_chat_request = _trying(chat, chat.render_chat_request, renderer)
    own = llm.model_config.is_encoder_decoder
    own = own or llm.renderer.tokenizer.num_special_tokens_to_add(False) > 0
    if type(completion) is OpenAIServingCompletion and not own:
        original = completion.render_completion_request
        reader = PromptReader(llm, memory)
        completion.render_completion_request = _trying(completion, original, reader)


def _renderer(llm: AsyncLLM, serving: Any, memory: TokenMemory) -> Renderer | None:
    try:
        return Renderer(llm, serving, memory)
    except hf.ChatTemplateResolutionError:  # there is no template, as each chat is told
        return None
    except Exception as error:  # noqa: BLE001 - vLLM's way may do what this one cannot
        logger.warning(
            "vLLM renders all chats, which is slower for short ones: %s: %s",
            type(error).__name__,
            error,
        )
        return None


def _template_arguments(serving: Any) -> Callable[[ChatCompletionRequest], dict[str, Any]]:
    """Return what gives the arguments of the template: those of all plain chats are the same."""
    original = serving._effective_chat_template_kwargs
    plain = original(ChatCompletionRequest(messages=[{"role": "user", "content": "a"}]))

    def run(request: ChatCompletionRequest) -> dict[str, Any]:
        if has_plain_prompt(request):
            return {**plain}
        arguments: dict[str, Any] = original(request)
        return arguments

    return run


def _trying(
    serving: Any, original: Callable[..., Any], renderer: Renderer | PromptReader
) -> Callable[..., Any]:
    """Return a function that renders after vLLM's checks, or has `original` do it."""

    async def run(request: Any) -> Any:
        known = serving._is_model_supported(request.model)
        if not is_in_place() or (not known and request.model not in serving.models.lora_requests):
            return await original(request)
        serving._preflight(request.n or 1)
        rendered, failure = None, None
        try:
            rendered = renderer.render(request)
        except Exception as error:  # noqa: BLE001 - vLLM meets it again, and makes its error
            failure = error
        if rendered is not None:
            return rendered
        answer = await original(request)
        if failure is not None and not isinstance(answer, ErrorResponse):
            logger.warning(
                "a prompt was rendered by vLLM, because the faster way has failed", exc_info=failure
            )
        return answer

    return run
