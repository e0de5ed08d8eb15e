"""A processor between neighbours that the test plays: every request ends, whatever they do."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_cli.config import Adapter
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter
from dynamo_cli.messages.lifecycle import Released, Retire
from dynamo_cli.messages.request import (
    Abort,
    AbortRequests,
    AddRequest,
    Ask,
    CallUtility,
    Chunks,
    Endpoint,
    Head,
    Question,
    Reply,
    SubmitProbe,
)
from dynamo_cli.messages.routing import FirstToken, Placed, RequestEnd, RouteQuery
from dynamo_cli.messages.telemetry import ProcessorStats

from .stage import Stage, body_of, error_of, request_of, stream_to_its_end

pytestmark = pytest.mark.engine


def test_a_request_goes_where_the_router_says_and_its_answer_back(stage: Stage) -> None:
    name = stage.ask()
    query = stage.route(worker=1, overlap=3)
    assert (query.api_id, query.priority) == (f"api-{name}", 0)
    added = stage.workers[1].take(AddRequest)
    assert (query.request_id, query.prompt_tokens * 4) == (added.request_id, len(added.token_ids))
    assert (added.probe, added.prefill_worker) == (False, None)
    stage.workers[1].give(added, first=True)
    assert stage.router.take(FirstToken) == FirstToken(added.request_id, 0)
    stage.workers[1].give(added, 2, finish=True)
    assert stage.router.take(RequestEnd) == RequestEnd(added.request_id)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status, reply.worker) == (name, 200, 1)
    assert dict(reply.headers) == {"X-Dynamo-Worker": "1", "X-Dynamo-Overlap-Blocks": "3"}
    assert (reply.usage.output_tokens, reply.finish_reason) == (3, "length")
    times = reply.timeline
    assert 0 < times.received_ns <= times.prepared_ns <= times.routed_ns <= times.sent_ns
    assert times.sent_ns <= times.first_token_ns <= times.ended_ns
    assert stage.workers[0].nothing_came()
    stage.nothing_is_left()


def test_a_stream_comes_as_it_is_made(stage: Stage) -> None:
    name, added = stage.place(stream=True)
    stage.workers[0].give(added, first=True)
    head = stage.frontend.take(Head)
    assert (head.request_id, head.status, head.worker) == (name, 200, 0)
    (chunk,) = stage.frontend.take(Chunks).chunks
    assert (chunk.request_id, chunk.tokens) == (name, 1)
    stage.workers[0].give(added, 2, finish=True)
    text, finish = stream_to_its_end(stage, name)
    assert text.endswith("data: [DONE]\n\n")
    assert (finish.error, finish.usage.output_tokens) == ("", 3)


def test_a_worker_gets_requests_again_when_its_next_engine_is_up(stage: Stage) -> None:
    stage.kill(stage.workers[0])
    name = stage.ask()
    stage.route(worker=0)  # the router does not know yet that it died
    added = stage.workers[1].take(AddRequest)
    assert stage.router.take(Placed).worker == 1
    stage.link(stage.workers[0])
    again, new = stage.place(worker=0)
    for worker, one in ((stage.workers[1], added), (stage.workers[0], new)):
        worker.complete(one)
    assert {stage.frontend.take(Reply).request_id for _ in range(2)} == {name, again}


@pytest.mark.parametrize("status", [400, 500])
def test_what_the_engine_refuses_fails_with_its_reason(stage: Stage, status: int) -> None:
    name, added = stage.place()
    stage.workers[0].refuse(added, status)
    reply = stage.frontend.take(Reply)
    message = error_of(reply)["message"]
    assert (reply.request_id, reply.status) == (name, status)
    assert "it is not wanted here" in message
    assert (f"request id api-{name}" in message) == (status == 500)
    assert stage.router.take(RequestEnd).request_id == added.request_id


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 10_000},  # the gate refuses it
        {"max_tokens": "many"},  # pydantic does
        {"temperature": -1.0},  # vLLM does
        {"model": "other"},
        {"endpoint": Endpoint.EMBEDDINGS},  # the model has none
    ],
)
def test_a_failure_is_counted_under_the_name_that_its_client_sees(
    stage: Stage, wrong: dict[str, Any]
) -> None:
    stage.ask(**wrong)
    reply = stage.frontend.take(Reply)
    error = error_of(reply)
    assert reply.status in (400, 404)
    assert reply.error == (error["code"] if isinstance(error["code"], str) else error["type"])


@pytest.mark.parametrize("reason", ["client_left", "slow_reader", "shutdown"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("endpoint", [Endpoint.COMPLETIONS, Endpoint.CHAT])
def test_an_aborted_request_is_given_up_everywhere(
    stage: Stage, reason: str, stream: bool, endpoint: Endpoint
) -> None:
    name, added = stage.place(stream=stream, endpoint=endpoint)
    if stream:
        stage.workers[0].give(added, first=True)
        stage.frontend.take(Head)
        stage.frontend.take(Chunks)
        stage.router.take(FirstToken)
    stage.frontend.send(Abort(name, reason))
    assert stage.workers[0].take(AbortRequests).request_ids == [added.request_id]
    assert stage.router.take(RequestEnd).request_id == added.request_id
    stage.workers[0].give(added)  # a step was under way
    # vLLM answers even a client that has left, which the frontend ignores.
    left = stage.nothing_is_left()
    assert all(isinstance(message, Reply) and message.status == 400 for message in left)


def test_a_request_that_is_aborted_before_it_is_routed_reaches_no_worker(stage: Stage) -> None:
    name = stage.ask()
    query = stage.router.take(RouteQuery)
    stage.frontend.send(Abort(name, "client_left"))
    assert stage.router.take(RequestEnd).request_id == query.request_id
    stage.nothing_is_left()
    assert all(worker.nothing_came() for worker in stage.workers)


def test_a_report_says_that_a_request_is_prepared_and_waits_for_the_router(stage: Stage) -> None:
    name = stage.ask()
    query = stage.router.take(RouteQuery)
    while (told := stage.frontend.take(ProcessorStats)).queries != 1:
        pass
    assert (told.requests, told.preparing) == (1, 0)
    stage.frontend.send(Abort(name, "client_left"))
    assert stage.router.take(RequestEnd).request_id == query.request_id
    stage.nothing_is_left()


def test_a_frontend_that_dies_takes_its_requests_with_it(stage: Stage) -> None:
    _, added = stage.place()
    stage.kill(stage.frontend)
    assert stage.workers[0].take(AbortRequests).request_ids == [added.request_id]
    stage.link(stage.frontend)


def test_when_the_router_is_away_the_least_loaded_worker_is_taken(stage: Stage) -> None:
    asked = stage.ask()
    stage.router.take(RouteQuery)
    before = stage.frontend.take(ProcessorStats).unrouted
    stage.kill(stage.router)  # while it is asked
    first = stage.workers[0].take(AddRequest)
    later = stage.ask()
    second = stage.workers[1].take(AddRequest)
    while stage.frontend.take(ProcessorStats).unrouted < before + 2:
        pass
    stage.link(stage.router)  # a new router is told what runs
    placed = {stage.router.take(Placed).request_id for _ in range(2)}
    assert placed == {first.request_id, second.request_id}
    stage.workers[0].complete(first)
    stage.workers[1].complete(second)
    assert [stage.frontend.take(Reply).request_id for _ in range(2)] == [asked, later]


def test_several_answers_to_a_prompt_go_to_one_worker(stage: Stage) -> None:
    name, first = stage.place(worker=1, n=2)
    assert stage.router.take(Placed).worker == 1  # the router is not asked for the sibling
    second = stage.workers[1].take(AddRequest)
    one, other = request_of(first), request_of(second)
    assert one.request_id != other.request_id
    assert one.external_req_id == other.external_req_id
    for added in (first, second):
        stage.workers[1].complete(added)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, len(body_of(reply)["choices"])) == (name, 2)
    assert reply.usage.output_tokens == 2
    assert reply.usage.prompt_tokens == len(first.token_ids) // 4


def test_each_of_several_prompts_is_routed(stage: Stage) -> None:
    name = stage.ask(prompt=["hello", "hello hello hello"])
    for worker in (0, 1):
        stage.route(worker)
    added = [worker.take(AddRequest) for worker in stage.workers]
    assert len({request_of(one).external_req_id for one in added}) == 2
    for worker, one in zip(stage.workers, added, strict=True):
        worker.complete(one)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, len(body_of(reply)["choices"])) == (name, 2)
    assert reply.usage.prompt_tokens == sum(len(one.token_ids) // 4 for one in added)
    assert dict(reply.headers)["X-Dynamo-Worker"] == "0,1"


def test_what_is_left_of_a_failed_request_is_given_up(stage: Stage) -> None:
    stage.ask(prompt=["hello", "hello hello hello"])
    for worker in (0, 1):
        stage.route(worker)
    refused, other = [worker.take(AddRequest) for worker in stage.workers]
    stage.workers[0].refuse(refused, 400)
    assert stage.frontend.take(Reply).status == 400
    assert stage.workers[1].take(AbortRequests).request_ids == [other.request_id]
    stage.nothing_is_left()


def test_a_probe_goes_to_its_worker_whatever_the_router_would_say(stage: Stage) -> None:
    name = stage.name()
    stage.submit(SubmitProbe(name, "probe-1", 1))
    added = stage.workers[1].take(AddRequest)
    assert added.probe
    sampling = request_of(added).sampling_params
    assert sampling is not None
    assert sampling.max_tokens == 1
    assert stage.router.take(Placed).worker == 1
    stage.workers[1].complete(added)
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status, reply.worker) == (name, 200, 1)


def test_a_probe_of_a_worker_that_is_not_there_fails(stage: Stage) -> None:
    stage.submit(SubmitProbe(stage.name(), "probe-7", 7))
    assert stage.frontend.take(Reply).status == 503


def test_without_another_worker_a_retired_one_is_released_when_nothing_runs_there(
    stage: Stage,
) -> None:
    stage.kill(stage.workers[1])
    stage.rescued()
    _, added = stage.place()
    stage.control.send(Retire(0))
    stage.workers[0].complete(added)
    assert stage.frontend.take(Reply).status == 200
    assert stage.report(Released) == Released(0)


@pytest.mark.parametrize("question", Question)
def test_questions_need_no_worker(stage: Stage, question: Question) -> None:
    for worker in stage.workers:
        stage.kill(worker)
    name = stage.name()
    stage.submit(Ask(name, name, question))
    reply = stage.frontend.take(Reply)
    assert (reply.request_id, reply.status) == (name, 200)
    told = body_of(reply)
    if question is Question.MODELS:
        assert [model["id"] for model in told["data"]] == ["tiny"]
    else:
        assert Endpoint.CHAT in told["paths"]


def adapter(number: int) -> Adapter:
    return Adapter(f"adapter-{number}", f"/adapters/{number}", number)


def test_an_adapter_is_loaded_by_every_worker_and_then_served(stage: Stage) -> None:
    name, one = stage.name(), adapter(1001)
    stage.submit(LoadAdapter(name, "adapter-1001", one))
    for worker in stage.workers:
        call = worker.take(CallUtility)
        assert call.method == "add_lora"
        worker.answer_call(call.call_id, True)
    assert stage.frontend.take(Reply).status == 200
    _, added = stage.place(model=one.name)
    assert request_of(added).lora_request is not None
    stage.workers[0].complete(added)
    assert stage.frontend.take(Reply).status == 200
    stage.submit(UnloadAdapter(stage.name(), "adapter-1001", one))
    assert stage.frontend.take(Reply).status == 200
    stage.ask(model=one.name)
    assert stage.frontend.take(Reply).status == 404


def test_an_adapter_that_a_worker_cannot_load_is_not_served(stage: Stage) -> None:
    stage.submit(LoadAdapter(stage.name(), "adapter-1002", adapter(1002)))
    for worker, error in zip(stage.workers, ("", "add_lora: a bad rank"), strict=True):
        worker.answer_call(worker.take(CallUtility).call_id, True, error)
    reply = stage.frontend.take(Reply)
    assert (reply.status, reply.error) == (400, "invalid_request_error")
    assert "a bad rank" in error_of(reply)["message"]
    stage.ask(model=adapter(1002).name)
    assert stage.frontend.take(Reply).status == 404


def test_a_worker_that_dies_while_it_loads_an_adapter_holds_up_nobody(stage: Stage) -> None:
    one = adapter(1003)
    stage.submit(LoadAdapter(stage.name(), "adapter-1003", one))
    first, second = stage.workers
    call = first.take(CallUtility)
    second.take(CallUtility)
    stage.kill(second)
    first.answer_call(call.call_id, True)
    assert stage.frontend.take(Reply).status == 200
    stage.nothing_is_left()
    stage.submit(UnloadAdapter(stage.name(), "adapter-1003", one))
    assert stage.frontend.take(Reply).status == 200


def test_a_worker_that_dies_after_a_load_was_given_up_ends_nobody_else(stage: Stage) -> None:
    name, one = stage.name(), adapter(1006)
    stage.submit(LoadAdapter(name, "adapter-1006", one))
    first, second = stage.workers
    call = first.take(CallUtility)
    second.take(CallUtility)
    stage.submit(Abort(name, "client_left"))
    stage.kill(second)
    stage.nothing_is_left()
    first.answer_call(call.call_id, True)  # nobody waits for it any more
    name, added = stage.place()
    first.complete(added)
    assert stage.frontend.take(Reply).request_id == name


def test_an_adapter_of_another_number_is_refused_by_its_name(stage: Stage) -> None:
    one, same_name = adapter(1004), Adapter("adapter-1004", "/elsewhere", 1005)
    for change, status in ((one, 200), (same_name, 400)):
        stage.submit(LoadAdapter(stage.name(), "adapter", change))
        if status == 200:
            for worker in stage.workers:
                worker.answer_call(worker.take(CallUtility).call_id, True)
        assert stage.frontend.take(Reply).status == status
    stage.submit(UnloadAdapter(stage.name(), "adapter", one))
    assert stage.frontend.take(Reply).status == 200
