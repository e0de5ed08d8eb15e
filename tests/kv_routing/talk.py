"""Multi-turn conversations over shared system prompts, one request at a time."""

from __future__ import annotations

import http.client
import json
import random
from dataclasses import dataclass, field
from typing import Any

from tests.support.server import Server

BLOCK = 32
CACHE_BLOCKS = 100
"""KV blocks of each engine: fewer than all conversations together need."""

ENGINE = (
    *("--block-size", str(BLOCK), "--max-model-len", "2048", "--engine-threads", "1"),
    *("--num-gpu-blocks-override", str(CACHE_BLOCKS), "--kv-cache-memory-bytes", "67108864"),
)
SYSTEMS, CONVERSATIONS, TURNS = 6, 12, 4
WORDS = ("the", "cat", "sat", "on", "mats", "and", "saw", "nine", "red", "birds", "fly", "low")


@dataclass(frozen=True)
class Answer:
    """The answer to one turn, and how much of its prompt was cached.

    Attributes:
        predicted_blocks: blocks that the router expected in the cache; -1 without a prediction.
        cached_tokens: tokens that the engine found there.
    """

    worker: int
    prompt_tokens: int
    predicted_blocks: int
    cached_tokens: int


@dataclass
class Conversation:
    """One user's messages so far."""

    messages: list[dict[str, str]]
    dice: random.Random = field(repr=False)

    def turn(self, server: Server, **headers: str) -> Answer:
        """Send the next message and return its answer."""
        self.messages.append({"role": "user", "content": text(self.dice, 25)})
        body = {
            "model": "tiny",
            "messages": self.messages,
            "max_tokens": 8,
            "ignore_eos": True,
            "temperature": 0,
        }
        answer, content = ask(server, "/v1/chat/completions", body, headers)
        said = content["choices"][0]["message"]["content"] or ""
        self.messages.append({"role": "assistant", "content": said})
        return answer


def ask(
    server: Server, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> tuple[Answer, Any]:
    """Send a request; return the prediction, the cached tokens and the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        all_headers = {"Content-Type": "application/json"} | (headers or {})
        connection.request("POST", path, json.dumps(body), all_headers)
        response = connection.getresponse()
        content = json.loads(response.read())
        assert response.status == 200, content
    finally:
        connection.close()
    usage = content["usage"]
    answer = Answer(
        worker=int(response.headers.get("X-Dynamo-Worker", -1)),
        prompt_tokens=usage["prompt_tokens"],
        predicted_blocks=int(response.headers.get("X-Dynamo-Overlap-Blocks", -1)),
        cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
    )
    return answer, content


def text(dice: random.Random, words: int) -> str:
    return " ".join(f"{dice.choice(WORDS)}{dice.randrange(100)}" for _ in range(words))


def conversations(seed: int) -> list[Conversation]:
    """Make new conversations over new system prompts."""
    dice = random.Random(seed)
    systems = [text(dice, 60) for _ in range(SYSTEMS)]
    return [
        Conversation(
            [{"role": "system", "content": systems[number % SYSTEMS]}],
            random.Random(f"{seed}-{number}"),
        )
        for number in range(CONVERSATIONS)
    ]


def talk(server: Server, seed: int, turns: int = TURNS) -> list[Answer]:
    """Run all turns of all conversations; the order of the conversations changes in each round."""
    people = conversations(seed)
    dice = random.Random(seed)
    answers = []
    for _ in range(turns):
        dice.shuffle(people)
        answers += [person.turn(server) for person in people]
    return answers


def cached_share(answers: list[Answer]) -> float:
    """Return the share of the prompt tokens that was cached."""
    return sum(one.cached_tokens for one in answers) / sum(one.prompt_tokens for one in answers)


def rightly_predicted(answers: list[Answer]) -> float:
    """Return the share of the requests for which the engine found what the router expected."""
    right = [one.predicted_blocks * BLOCK == one.cached_tokens for one in answers]
    return sum(right) / len(right)
