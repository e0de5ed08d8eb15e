"""The JSON of answers with log probabilities, made in pieces and by pydantic."""

from __future__ import annotations

from typing import Any

from openai.types.responses import (
    ResponseContentPartDoneEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDoneEvent,
)
from openai.types.responses.response_output_text import Logprob, LogprobTopLogprob
from vllm import SamplingParams
from vllm.entrypoints.openai.chat_completion.protocol import (
    ChatCompletionLogProb,
    ChatCompletionLogProbs,
    ChatCompletionLogProbsContent,
    ChatCompletionResponse,
    ChatCompletionResponseChoice,
    ChatMessage,
)
from vllm.entrypoints.openai.completion.protocol import (
    CompletionLogProbs,
    CompletionResponse,
    CompletionResponseChoice,
)
from vllm.entrypoints.openai.responses.protocol import (
    ResponseCompletedEvent,
    ResponsesRequest,
    ResponsesResponse,
)
from vllm.entrypoints.serve.engine.protocol import UsageInfo
from vllm.logprobs import Logprob as Score

from dynamo_cli.engines.vllm.front import responses, scored
from tests.support.driver import tell

TEXT = 'é"\n"logprobs":{"content":[]},"choices":[]'
OF_PROMPT: Any = [None, {5: Score(-1.5, 1, TEXT)}]


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


def _completion(tokens: int) -> Any:
    logprobs = CompletionLogProbs(
        text_offset=[1] * tokens,
        token_logprobs=[None, -9999.0][:tokens],
        tokens=[TEXT] * tokens,
        top_logprobs=[None, *[{TEXT: -0.5, "b": -1.0}] * 200][:tokens],
    )
    return CompletionResponseChoice(
        index=tokens,
        text=TEXT,
        logprobs=logprobs if tokens else None,
        prompt_logprobs=OF_PROMPT * tokens if tokens else None,
    )


def _message(tokens: int, text: str = TEXT) -> Any:
    scores = [
        Logprob(
            token=TEXT,
            logprob=-0.5,
            bytes=[1, 255],
            top_logprobs=[LogprobTopLogprob(token=TEXT, logprob=-1.0, bytes=[7])] * 2,
        )
    ] * tokens
    part = ResponseOutputText(text=text, annotations=[], type="output_text", logprobs=scores)
    return ResponseOutputMessage(
        id="m", content=[part], role="assistant", status="completed", type="message"
    )


def _events() -> list[Any]:
    """Events of the Responses API, and a whole response."""
    item = _message(3)
    place = {"item_id": "m", "output_index": 0, "sequence_number": 1}
    request = ResponsesRequest(model="x", input="x", max_output_tokens=7)
    response = ResponsesResponse.from_request(
        request,
        SamplingParams(max_tokens=7),
        model_name="x",
        created_time=1,
        output=[_message(2), _message(0), _message(1)],
        status="completed",
    )
    return [
        ResponseOutputItemDoneEvent(
            item=item, output_index=0, sequence_number=1, type="response.output_item.done"
        ),
        ResponseContentPartDoneEvent(
            content_index=0, part=item.content[0], type="response.content_part.done", **place
        ),
        ResponseTextDoneEvent(
            content_index=0,
            text=TEXT,
            logprobs=[{"token": TEXT, "logprob": -1.0, "top_logprobs": []}] * 2,
            type="response.output_text.done",
            **place,
        ),
        ResponseCompletedEvent(response=response, sequence_number=2, type="response.completed"),
        response,
    ]


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
        CompletionResponse(
            model=TEXT, choices=[_completion(tokens) for tokens in (2, 0, 150)], usage=usage
        ),
    ]
    events = _events()
    whole = [answer.model_dump_json(by_alias=True) for answer in [*answers, *events]]
    made = [scored.body_of(answer).decode() for answer in answers]
    made += [responses.json_of(event).decode() for event in events]
    again = [event.model_dump_json(by_alias=True) for event in events]
    different = [one for one, other in zip(whole, made, strict=True) if one != other]
    kept = again == whole[len(answers) :]
    tell({"compared": len(made), "different": different, "kept": kept})


if __name__ == "__main__":
    main()
