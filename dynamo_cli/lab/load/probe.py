"""Asks a server for the name of its model, and measures how many tokens it counts for a word."""

from __future__ import annotations

import random
from typing import NamedTuple, NoReturn

import msgspec

from dynamo_cli import api_key
from dynamo_cli.errors import ServerFailed
from dynamo_cli.lab.load.answer import AnswerUsage
from dynamo_cli.lab.load.client import AnswerFailed, LoadClient
from dynamo_cli.lab.load.form import ApiPath, Form
from dynamo_cli.lab.load.workload import LoadRequest, words

FEW_WORDS, MORE_WORDS = 20, 120
USUAL_TOKENS_PER_WORD = 1.3
BAD_REQUEST = ("HTTP 400", "HTTP 422")


class Known(NamedTuple):
    """What is known of a server.

    Attributes:
        form: how requests to it are written.
        tokens_per_word: mean number of tokens of a word.
        notices: remarks for people on what it lacks.
    """

    form: Form
    tokens_per_word: float
    notices: list[str]


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class _Answer(msgspec.Struct):
    usage: AnswerUsage | None = None


async def get_to_know(client: LoadClient, model: str, api: ApiPath) -> Known:
    """Find out what requests to a server depend on.

    Args:
        client: sends requests to it.
        model: name of the model; empty takes the first that the server lists.
        api: endpoint that is used.

    Raises:
        ServerFailed: it does not answer like an OpenAI server.
    """
    notices: list[str] = []
    form = Form(model or await _first_model(client), api)
    try:
        few = await _prompt_tokens(client, form, FEW_WORDS)
    except AnswerFailed as error:
        if error.kind not in BAD_REQUEST:
            _fail(error)
        form = form._replace(exact=False)
        notices.append("it does not accept ignore_eos, so answers may be shorter than asked for")
        few = await _checked_prompt_tokens(client, form, FEW_WORDS)
    more = await _checked_prompt_tokens(client, form, MORE_WORDS)
    tokens_per_word = (more - few) / (MORE_WORDS - FEW_WORDS)
    if tokens_per_word <= 0:
        tokens_per_word = USUAL_TOKENS_PER_WORD
        notices.append(
            "it does not report prompt tokens: a word is assumed to have "
            f"{USUAL_TOKENS_PER_WORD} tokens"
        )
    return Known(form, tokens_per_word, notices)


async def _first_model(client: LoadClient) -> str:
    try:
        content = await client.whole("GET", "/models")
        models = msgspec.json.decode(content, type=_Models).data
    except AnswerFailed as error:
        _fail(error)
    except msgspec.DecodeError as error:
        raise ServerFailed("its /v1/models is not OpenAI's; name the model (--model).") from error
    if not models:
        raise ServerFailed("it lists no model; name one (--model).")
    return models[0].id


async def _checked_prompt_tokens(client: LoadClient, form: Form, count: int) -> int:
    try:
        return await _prompt_tokens(client, form, count)
    except AnswerFailed as error:
        _fail(error)


async def _prompt_tokens(client: LoadClient, form: Form, count: int) -> int:
    """Count the tokens of a prompt of `count` words; 0 if the server does not report them.

    Raises:
        Failed: there is no answer.
    """
    text = words(random.Random(count), count)
    ask = LoadRequest([{"role": "user", "content": text}], output_tokens=1)
    content = await client.whole("POST", form.api, form.body(ask, stream=False))
    try:
        usage = msgspec.json.decode(content, type=_Answer).usage
    except msgspec.DecodeError as error:
        raise AnswerFailed("malformed answer", str(error)) from error
    return usage.prompt_tokens if usage else 0


def _fail(error: AnswerFailed) -> NoReturn:
    remedy = f"; {api_key.REMEDY}" if error.kind == f"HTTP {api_key.UNAUTHORIZED}" else ""
    raise ServerFailed(f"{error.kind}: {error.message.rstrip('.')}{remedy}.") from error
