"""Which requests a processor refuses because workers died of them: those without progress."""

from __future__ import annotations

import pytest

from dynamo_cli.messages.base import Message
from dynamo_cli.messages.request import AddRequest, MoveReason, Reply

from .stage import Stage, body_of, error_of

pytestmark = pytest.mark.engine

LONG = "hello hello hello hello"


def dies(stage: Stage, worker: int) -> None:
    """A worker dies, long enough after the last one, and is started again at once."""
    stage.let_time_pass()
    stage.kill(stage.workers[worker])
    stage.link(stage.workers[worker])


def goes_to(stage: Stage, worker: int, requests: int = 1, skip: type[Message] = Message) -> None:
    """Let as many families of requests that have left their worker go to this one."""
    for _ in range(requests):
        assert stage.route(worker, skip=skip).moved


def test_an_answer_that_has_ended_is_progress_of_the_others(stage: Stage) -> None:
    name, first = stage.place(n=2, prompt=LONG)
    for one in (first, stage.workers[0].take(AddRequest)):
        stage.workers[0].give(one, 3, first=True)
    dies(stage, 0)
    goes_to(stage, 1)
    assert stage.moved().output_tokens == 6
    ends, goes_on = (stage.workers[1].take(AddRequest) for _ in range(2))
    stage.workers[1].give(ends, finish=True)
    stage.workers[1].give(goes_on)  # has four tokens now, and both had six at the first death
    dies(stage, 1)
    goes_to(stage, 0)
    move = stage.moved()
    assert (move.reason, move.output_tokens) == (MoveReason.DIED, 8)
    stage.workers[0].complete(stage.workers[0].take(AddRequest))
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status) == (name, 200), error_of(reply)
    assert len(body_of(reply)["choices"]) == 2
    stage.nothing_is_left()


def test_prompts_on_two_workers_that_die_one_after_the_other(stage: Stage) -> None:
    name = stage.ask(prompt=[LONG, "hello"])
    added = []
    for worker, tokens in ((0, 3), (1, 1)):
        stage.route(worker, skip=Message)
        added.append(stage.workers[worker].take(AddRequest))
        stage.workers[worker].give(added[-1], tokens, first=True)
    dies(stage, 0)
    goes_to(stage, 1)
    stage.moved()
    stage.workers[1].give(stage.workers[1].take(AddRequest), finish=True)
    dies(stage, 1)  # the other prompt has fewer tokens, but this is the first death that it sees
    goes_to(stage, 0)
    stage.moved()
    stage.workers[0].complete(stage.workers[0].take(AddRequest))
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status) == (name, 200), error_of(reply)
    stage.nothing_is_left()


def test_a_prompt_that_kills_is_refused_whatever_the_others_give(stage: Stage) -> None:
    name = stage.ask(prompt=["hello", LONG])
    for _ in range(2):
        stage.route(0, skip=Message)
    good, _ = (stage.workers[0].take(AddRequest) for _ in range(2))
    stage.workers[0].give(good, first=True)
    dies(stage, 0)
    goes_to(stage, 1, requests=2)
    for _ in range(2):
        stage.moved()
    again = [stage.workers[1].take(AddRequest) for _ in range(2)]
    goes_on = next(one for one in again if one.token_ids == good.token_ids)
    stage.workers[1].give(goes_on)
    dies(stage, 1)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status, reply.error) == (name, 500, "poison_request")
    assert "is refused: 2 times in a row" in error_of(reply)["message"]
