"""What users do with the `openai` client."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import Server

if TYPE_CHECKING:  # its import takes two seconds
    import openai

pytestmark = pytest.mark.engine

MESSAGES: list[Any] = [{"role": "user", "content": "Hello there"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def chat(client: openai.OpenAI, **more: Any) -> Any:
    options: dict[str, Any] = {
        "model": "tiny",
        "messages": MESSAGES,
        "max_tokens": 12,
        "temperature": 0,
    } | more
    return client.chat.completions.create(**options)


def complete(client: openai.OpenAI, **more: Any) -> Any:
    options: dict[str, Any] = {
        "model": "tiny",
        "prompt": "Once upon",
        "max_tokens": 12,
        "temperature": 0,
    } | more
    return client.completions.create(**options)


def test_models(client: openai.OpenAI) -> None:
    import openai

    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_a_chat_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = chat(client)
    chunks = list(chat(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == 12
    assert whole.usage.completion_tokens == 12
    assert chunks[-2].choices[0].finish_reason == "length"


def test_a_completion_stream_is_the_whole_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = complete(client)
    chunks = list(complete(client, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


def test_several_answers_differ_and_a_seed_repeats_them(client: openai.OpenAI) -> None:
    options = {"n": 3, "temperature": 1.0, "seed": 7}
    first, second = (
        [choice.message.content for choice in chat(client, **options).choices] for _ in range(2)
    )
    assert len(set(first)) == 3
    assert first == second
    streamed = {0: "", 1: "", 2: ""}
    for chunk in chat(client, stream=True, **options):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert list(streamed.values()) == first


def test_logprobs(client: openai.OpenAI) -> None:
    choice = chat(client, logprobs=True, top_logprobs=3, max_tokens=4).choices[0]
    assert [len(token.top_logprobs) for token in choice.logprobs.content] == [3] * 4
    choice = complete(client, logprobs=2, max_tokens=4).choices[0]
    assert len(choice.logprobs.tokens) == 4


def test_echo_and_stop_and_bias(client: openai.OpenAI) -> None:
    plain = complete(client).choices[0].text
    assert complete(client, echo=True).choices[0].text == "Once upon" + plain
    stopped = complete(client, stop=[plain[4:7]]).choices[0]
    assert stopped.finish_reason == "stop"
    assert plain.startswith(stopped.text)
    assert plain[4:7] not in stopped.text
    ids = {"extra_body": {"return_token_ids": True}}
    biased = complete(client, max_tokens=4, logit_bias={"300": 100}, **ids).choices[0]
    assert biased.token_ids == [300] * 4


def test_a_prompt_may_be_text_a_list_or_tokens(client: openai.OpenAI, server: Server) -> None:
    ids = {"extra_body": {"return_token_ids": True}}
    text = complete(client, **ids).choices[0]
    listed = complete(client, prompt=["Once upon", "a time"], **ids)
    tokens = complete(client, prompt=text.prompt_token_ids, **ids).choices[0]
    both = complete(client, prompt=[text.prompt_token_ids, [5, 6, 7]], **ids)
    assert listed.choices[0].token_ids == text.token_ids == tokens.token_ids
    assert [choice.index for choice in listed.choices] == [0, 1]
    assert both.choices[0].token_ids == text.token_ids
    assert both.choices[1].prompt_token_ids == [5, 6, 7]


def test_tokenize_and_back(client: openai.OpenAI) -> None:
    text = "grüße, 世界!"
    root = str(client.base_url).removesuffix("/v1/")
    tokens = client.post(f"{root}/tokenize", body={"model": "tiny", "prompt": text}, cast_to=object)
    assert isinstance(tokens, dict)
    back = client.post(
        f"{root}/detokenize", body={"model": "tiny", "tokens": tokens["tokens"]}, cast_to=object
    )
    assert back == {"prompt": text}


def test_a_json_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {"name": "answer", "schema": WEATHER["function"]["parameters"], "strict": True}
    answer = chat(
        client,
        response_format={"type": "json_schema", "json_schema": schema},
        max_tokens=200,
    )
    assert json.loads(answer.choices[0].message.content)["city"] in ("Oslo", "Rome")


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_tool_is_called(client: openai.OpenAI, stream: bool) -> None:
    named = {"type": "function", "function": {"name": "weather"}}
    answer = chat(client, tools=[WEATHER], tool_choice=named, max_tokens=200, stream=stream)
    if stream:
        deltas = [chunk.choices[0].delta for chunk in answer if chunk.choices]
        calls = [call.function for delta in deltas for call in delta.tool_calls or ()]
        name = "".join(call.name or "" for call in calls)
        arguments = "".join(call.arguments or "" for call in calls)
    else:
        function = answer.choices[0].message.tool_calls[0].function
        name, arguments = function.name, function.arguments
    assert name == "weather"
    json.loads(arguments)  # random weights say nothing sensible, but it is JSON


def test_responses(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "tiny",
        "input": "Hello",
        "max_output_tokens": 12,
        "temperature": 0,
    }
    whole = client.responses.create(**options)
    events = list(client.responses.create(stream=True, **options))
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == whole.output_text != ""
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        ({"model": "other"}, 404, "other"),
        ({"messages": "hello"}, 400, "messages"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"temperature": -1}, 400, "temperature"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"messages": [{"role": "user", "content": "word " * 4000}]}, 400, "2048"),
        ({"max_tokens": 4000}, 400, "2048"),
        ({"tools": [WEATHER], "tool_choice": "sometimes"}, 400, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, 400, "json_schema"),
        ({"n": 0}, 400, "n"),
        ({"logit_bias": {"99999": 1}}, 400, "99999"),
    ],
)
def test_what_the_model_cannot_do_is_an_error_in_openai_shape(
    client: openai.OpenAI, options: dict[str, Any], status: int, says: str
) -> None:
    import openai

    for stream in (False, True):
        with pytest.raises(openai.APIStatusError) as caught:
            chat(client, stream=stream, **options)
        assert caught.value.status_code == status
        error = caught.value.response.json()["error"]
        assert error.keys() >= {"message", "type", "param", "code"}
        assert says in error["message"]
        assert caught.value.response.headers["X-Request-ID"]


def test_text_only_models_have_no_embeddings(client: openai.OpenAI) -> None:
    import openai

    with pytest.raises(openai.NotFoundError, match="does not support /v1/embeddings"):
        client.embeddings.create(model="tiny", input="a")
