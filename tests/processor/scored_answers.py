"""The JSON of chats with log probabilities, made in pieces and by pydantic."""

from __future__ import annotations

from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionLogProb,
    ChatCompletionLogProbs,
    ChatCompletionLogProbsContent,
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatMessage,
)
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.logprobs import Logprob

from dynamo_cli.engines.vllm.front import scored
from tests.support.driver import tell

TEXT = 'é"\n"logprobs":{"content":[]},"choices":[]'
OF_PROMPT: Any = [None, {5: Logprob(-1.5, 1, TEXT)}]


def _chat(tokens: int | None) -> Any:
    token = ChatCompletionLogProbsContent(
        token=TEXT,
        logprob=-0.5,
        bytes=[1, 255],
        top_logprobs=[ChatCompletionLogProb(token=TEXT, logprob=-9999.0)] * 2,
    )
    logprobs = None if tokens is None else ChatCompletionLogProbs(content=[token] * tokens)
    message = ChatMessage(role="assistant", content=TEXT)
    return ChatCompletionResponseChoice(
        index=tokens or 0, message=message, logprobs=logprobs, finish_reason="length"
    )


def main() -> None:
    """Tell which answers have a JSON that is not that of pydantic."""
    usage = UsageInfo(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    answers: list[Any] = [
        ChatCompletionResponse(
            model=TEXT,
            choices=[_chat(tokens) for tokens in (3, 0, None, 1)],
            usage=usage,
            prompt_logprobs=OF_PROMPT,
        ),
        ChatCompletionResponse(model="x", choices=[], usage=usage),
    ]
    whole = [answer.model_dump_json(by_alias=True) for answer in answers]
    made = [scored.body_of(answer).decode() for answer in answers]
    different = [one for one, other in zip(whole, made, strict=True) if one != other]
    tell({"compared": len(made), "different": different})


if __name__ == "__main__":
    main()
