"""A request goes on at another worker when its own dies, and nobody sees it in the answer."""

from __future__ import annotations

import array
import re
from typing import Any

import orjson
import pytest

from dynamo_cli.messages.base import Message
from dynamo_cli.messages.lifecycle import Released, Retire
from dynamo_cli.messages.request import (
    Abort,
    AbortRequests,
    AddRequest,
    Chunk,
    Chunks,
    Endpoint,
    Head,
    MoveReason,
    OutputsLost,
    Reply,
    Resume,
    Submit,
    SubmitProbe,
)
from dynamo_cli.messages.routing import FirstToken, RequestEnd, RouteQuery
from dynamo_cli.messages.telemetry import ProcessorStats

from .stage import Stage, body_of, error_of, request_of, stream_to_its_end

pytestmark = pytest.mark.engine


def prompt_of(added: AddRequest) -> list[int]:
    return list(array.array("i", added.token_ids))


def moved_to(stage: Stage, worker: int, lost: AddRequest) -> AddRequest:
    """Answer the router's query of a request that moves, and return what its new worker gets."""
    assert stage.router.take(RequestEnd).request_id == lost.request_id
    query = stage.route(worker)
    assert query.moved
    added = stage.workers[worker].take(AddRequest)
    assert added.request_id == query.request_id != lost.request_id
    assert added.token_ids == lost.token_ids
    assert request_of(added).sampling_params == request_of(lost).sampling_params
    return added


def started(stage: Stage, tokens: int = 1, **fields: Any) -> tuple[str, AddRequest]:
    """Bring a stream to worker 0, which gives its first tokens; return its key and the request."""
    name, added = stage.place(stream=True, **fields)
    for number in range(tokens):
        stage.workers[0].give(added, first=number == 0)
        if number == 0:
            stage.frontend.take(Head)
            stage.router.take(FirstToken)
        stage.frontend.take(Chunks)
    return name, added


def goes_on(stage: Stage, worker: int, added: AddRequest) -> None:
    """Let a request that has moved give a token, so that nobody suspects it of killing workers."""
    stage.workers[worker].give(added, first=True)
    stage.router.take(FirstToken)
    stage.frontend.take(Chunks)


def output_of(added: AddRequest) -> list[int]:
    return list(array.array("i", added.output_tokens))


def test_a_request_without_a_token_begins_anew(stage: Stage) -> None:
    name = stage.ask()
    asked = stage.route()
    lost = stage.workers[0].take(AddRequest)
    stage.kill(stage.workers[0])
    assert stage.router.take(RequestEnd).request_id == lost.request_id
    assert stage.rescued() == ("worker 0", 1, 0)
    query = stage.route(1)
    assert (query.hashes, query.prompt_tokens) == (asked.hashes, asked.prompt_tokens)
    assert (query.moved, query.moved_from, query.output_tokens) == (MoveReason.DIED, 0, 0)
    assert query.excluded == (0,)
    added = stage.workers[1].take(AddRequest)
    assert (added.token_ids, added.output_tokens) == (lost.token_ids, b"")
    move = stage.moved()
    assert (move.source, move.target, move.reason) == (0, 1, MoveReason.DIED)
    stage.workers[1].complete(added)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status, reply.worker) == (name, 200, 1)
    assert reply.usage.output_tokens == 1
    (told,) = reply.moves
    assert told.left_ns == move.left_ns < told.resumed_ns
    stage.nothing_is_left()


@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.CHAT])
def test_a_stream_goes_on_after_its_last_token(stage: Stage, endpoint: Endpoint) -> None:
    name, lost = started(stage, tokens=3, endpoint=endpoint)
    stage.kill(stage.workers[0])
    added = moved_to(stage, 1, lost)
    assert output_of(added) == prompt_of(lost)[:1] * 3
    assert stage.moved().output_tokens == 3
    stage.workers[1].give(added)  # an engine says nothing of the prompt of what it resumes
    assert stage.router.take(FirstToken).request_id == added.request_id
    stage.workers[1].give(added, 2, finish=True)
    text, finish = stream_to_its_end(stage, name)
    assert text.endswith("data: [DONE]\n\n")
    assert (finish.error, finish.usage.output_tokens, finish.worker) == ("", 6, 1)
    # What the second engine finds in its cache is no gain of the client.
    assert finish.usage.cached_tokens == 0
    assert [(move.source, move.target) for move in finish.moves] == [(0, 1)]
    assert finish.moves[0].resumed_ns > finish.moves[0].left_ns
    stage.nothing_is_left()


def test_the_answers_to_one_prompt_stay_together(stage: Stage) -> None:
    name, first = stage.place(n=3)
    rest = [stage.workers[0].take(AddRequest) for _ in range(2)]
    stage.workers[0].complete(first)
    stage.kill(stage.workers[0])
    assert stage.rescued() == ("worker 0", 1, 0)
    assert stage.route(1, skip=Message).moved  # the router is asked once
    added = [stage.workers[1].take(AddRequest) for _ in range(2)]
    assert {prompt.token_ids for prompt in added} == {rest[0].token_ids}
    assert len({request_of(one).external_req_id for one in added}) == 1
    stage.moved()
    for one in added:
        stage.workers[1].complete(one)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, len(body_of(reply)["choices"])) == (name, 3)
    assert (reply.usage.output_tokens, len(reply.moves)) == (3, 1)


def test_each_of_several_prompts_finds_its_own_place(stage: Stage) -> None:
    name = stage.ask(prompt=["hello", "hello hello hello"])
    for _ in range(2):
        stage.route(0)
        stage.workers[0].take(AddRequest)
    stage.kill(stage.workers[0])
    assert stage.rescued() == ("worker 0", 1, 0)
    for _ in range(2):
        assert stage.route(1, skip=Message).moved
        stage.moved()
        stage.workers[1].complete(stage.workers[1].take(AddRequest))
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.usage.output_tokens, len(reply.moves)) == (name, 2, 2)


def test_the_limit_of_moves(stage: Stage) -> None:
    name, added = started(stage)
    for worker in (0, 1):
        stage.kill(stage.workers[worker])
        stage.link(stage.workers[worker])
        added = moved_to(stage, 1 - worker, added)
        stage.moved()
        goes_on(stage, 1 - worker, added)
    stage.kill(stage.workers[0])
    text, finish = stream_to_its_end(stage, name)
    assert finish.error == "worker_lost"
    assert text.count("worker 0 stopped") == 1
    assert [stage.rescued() for _ in range(3)][-1] == ("worker 0", 0, 1)
    stage.nothing_is_left()


def test_a_request_is_not_to_blame_for_nodes_that_are_lost(stage: Stage) -> None:
    name, added = started(stage)
    for worker in (0, 1):
        stage.kill(stage.workers[worker], "node lost: node-b has been silent for 3 s")
        stage.link(stage.workers[worker])
        added = moved_to(stage, 1 - worker, added)
        assert stage.moved().reason is MoveReason.NODE_LOST
        stage.let_time_pass()
    stage.workers[0].give(added, finish=True)
    assert not stream_to_its_end(stage, name)[1].error


def test_a_request_of_which_two_workers_die_gets_no_third(stage: Stage) -> None:
    name, added = started(stage)
    stage.kill(stage.workers[0])
    stage.link(stage.workers[0])
    moved_to(stage, 1, added)
    stage.moved()
    stage.let_time_pass()
    stage.kill(stage.workers[1])
    text, finish = stream_to_its_end(stage, name)
    assert finish.error == "poison_request"
    assert text.count("is refused: 2 times in a row, a process died") == 1
    assert [stage.rescued() for _ in range(2)][-1] == ("worker 1", 0, 1)
    stage.nothing_is_left()


def test_a_request_waits_until_a_worker_is_up_again(stage: Stage) -> None:
    stage.kill(stage.workers[1])
    stage.rescued()
    name, lost = started(stage)
    stage.kill(stage.workers[0])
    assert stage.rescued() == ("worker 0", 1, 0)
    assert stage.router.take(RequestEnd).request_id == lost.request_id
    stage.route(None)
    stage.link(stage.workers[0])
    stage.route(0)
    added = stage.workers[0].take(AddRequest)
    assert output_of(added) == prompt_of(lost)[:1]
    stage.moved()
    stage.workers[0].complete(added)
    assert not stream_to_its_end(stage, name)[1].error


def test_a_stream_that_finds_no_worker_in_time_ends_with_the_error_of_its_loss(
    stage: Stage,
) -> None:
    name, _ = started(stage)
    for worker in stage.workers:
        stage.kill(worker)
    stage.route(None, skip=Message)
    move = stage.moved()
    assert (move.target, move.output_tokens) == (None, 1)
    text, finish = stream_to_its_end(stage, name)
    assert (finish.error, text.count("worker 0 stopped")) == ("worker_lost", 1)
    stage.nothing_is_left()


def test_without_any_worker_a_new_request_waits_and_is_refused(stage: Stage) -> None:
    for worker in stage.workers:
        stage.kill(worker)
    name = stage.ask()
    stage.route(None)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status, reply.worker) == (name, 503, None)
    assert dict(reply.headers)["Retry-After"] == "1"
    assert "no worker can take requests" in error_of(reply)["message"]
    stage.nothing_is_left()


@pytest.mark.parametrize("routed", [False, True])
def test_a_request_that_is_aborted_while_it_moves_reaches_nobody(
    stage: Stage, routed: bool
) -> None:
    name, lost = started(stage)
    stage.kill(stage.workers[0])
    stage.router.take(RequestEnd)
    query = stage.router.take(RouteQuery)
    if routed:
        stage.answer(query, 1)
        added = stage.workers[1].take(AddRequest)
    stage.frontend.send(Abort(name, "client_left"))
    if routed:
        assert stage.workers[1].take(AbortRequests).request_ids == [added.request_id]
    else:
        stage.answer(query, 1)
    assert stage.router.take(RequestEnd).request_id == query.request_id != lost.request_id
    stage.nothing_is_left()
    assert stage.workers[1].nothing_came()


def test_lost_outputs_move_their_requests_and_no_others(stage: Stage) -> None:
    name, lost = started(stage)
    other, kept = stage.place(worker=1)
    stage.workers[0].send(OutputsLost(0))
    assert stage.workers[0].take(AbortRequests).request_ids == [lost.request_id]
    added = moved_to(stage, 1, lost)
    assert stage.moved().reason is MoveReason.OUTPUTS_LOST
    stage.workers[0].give(lost)  # a step was under way, whose token the client must not get twice
    stage.workers[1].give(added, first=True, finish=True)
    _, finish = stream_to_its_end(stage, name)
    assert (finish.error, finish.usage.output_tokens) == ("", 2)
    stage.workers[1].complete(kept)
    assert stage.frontend.take(Reply).request_id == other


def test_the_requests_of_a_retired_worker_move_at_once(stage: Stage) -> None:
    name, lost = started(stage)
    stage.control.send(Retire(0))
    assert stage.workers[0].take(AbortRequests).request_ids == [lost.request_id]
    assert stage.report(Released) == Released(0)
    added = moved_to(stage, 1, lost)
    assert stage.moved().reason is MoveReason.DRAINED
    stage.workers[0].give(lost)
    stage.workers[1].give(added, first=True, finish=True)
    _, finish = stream_to_its_end(stage, name)
    assert (finish.error, finish.usage.output_tokens) == ("", 2)


def test_what_no_worker_wants_fails_with_its_reason(stage: Stage) -> None:
    name, lost = stage.place()
    stage.workers[0].refuse(lost, 503)
    added = moved_to(stage, 1, lost)
    assert stage.moved().reason is MoveReason.ASLEEP
    stage.workers[1].refuse(added, 503)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status) == (name, 503)
    assert "it is not wanted here" in error_of(reply)["message"]


def test_a_probe_stays_with_its_worker(stage: Stage) -> None:
    name = stage.name()
    stage.submit(SubmitProbe(name, "probe-1", 1))
    stage.workers[1].take(AddRequest)
    stage.kill(stage.workers[1])
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status, reply.error) == (name, 503, "worker_lost")
    assert stage.rescued() == ("worker 1", 0, 1)


def test_without_a_router_it_moves_too(stage: Stage) -> None:
    _, lost = stage.place()
    stage.kill(stage.router)
    stage.kill(stage.workers[0])
    added = stage.workers[1].take(AddRequest)
    assert added.token_ids == lost.token_ids
    stage.workers[1].complete(added)
    stage.moved()
    assert stage.frontend.take(Reply).status == 200
    stage.link(stage.router)


def test_a_request_whose_first_token_takes_too_long_moves_once(hasty: Stage) -> None:
    name, lost = hasty.place()
    assert hasty.workers[0].take(AbortRequests).request_ids == [lost.request_id]
    added = moved_to(hasty, 1, lost)
    assert hasty.moved().reason is MoveReason.FIRST_TOKEN
    assert hasty.workers[1].take(AbortRequests).request_ids == [added.request_id]
    reply = hasty.frontend.take(Reply)
    assert (reply.request_id, reply.status, reply.error) == (name, 503, "first_token_timeout")
    assert "no first token for 1 s at worker 1" in error_of(reply)["message"]
    assert hasty.router.take(RequestEnd).request_id == added.request_id
    log = hasty.read_log()
    assert "no first token for 1 s at worker 0: it moves" in log
    assert "no first token for 1 s at worker 1, again: it fails" in log


def test_a_request_that_has_its_first_token_may_take_its_time(hasty: Stage) -> None:
    name, added = started(hasty)
    hasty.place(worker=1)
    assert hasty.workers[1].take(AbortRequests)  # a second is over
    hasty.workers[0].give(added, finish=True)
    assert not stream_to_its_end(hasty, name)[1].error


def test_a_stream_of_a_lost_processor_goes_on(stage: Stage) -> None:
    body = {"model": "tiny", "prompt": "hello hello", "max_tokens": 8, "stream": True}
    name, added = started(stage, tokens=0)
    had: list[Chunk] = []
    for number in range(2):
        stage.workers[0].give(added, first=number == 0)
        if number == 0:
            stage.frontend.take(Head)
            stage.router.take(FirstToken)
        had += stage.frontend.take(Chunks).chunks
    stage.submit(Abort(name, "client_left"))  # as if that processor had died
    assert stage.router.take(RequestEnd).request_id == added.request_id
    resume = Resume(
        len(had),
        sum(len(chunk.data) for chunk in had),
        b"".join(chunk.output for chunk in had),
        "it is lost.",
    )
    # The id is the client's, so that it is in the events that both make.
    known = re.search(r'"id":"cmpl-([^"]+)"', had[0].data.decode())
    assert known is not None
    headers = [("x-request-id", known[1])]
    again = stage.name()
    submit = Submit(again, "api", Endpoint.COMPLETIONS, orjson.dumps(body), headers, resume=resume)
    stage.submit(submit)
    query = stage.route(1)
    assert (query.moved, query.moved_from, query.output_tokens) == ("died", None, 2)
    goes_on_as = stage.workers[1].take(AddRequest)
    assert output_of(goes_on_as) == prompt_of(added)[:1] * 2
    assert goes_on_as.token_ids == added.token_ids
    stage.workers[1].give(goes_on_as, first=True, finish=True)
    stage.frontend.take(Head)
    text, finish = stream_to_its_end(stage, again)
    assert finish.error == ""
    assert finish.usage.output_tokens == 3
    assert text.count("data: ") == 2
    stage.nothing_is_left()


def test_the_frontend_hears_of_the_first_token_of_a_whole_answer(stage: Stage) -> None:
    name, added = stage.place()
    stage.workers[0].give(added, first=True)
    while name not in stage.frontend.take(ProcessorStats).begun:
        pass
    stage.workers[0].give(added, finish=True)
    assert stage.frontend.take(Reply).request_id == name
