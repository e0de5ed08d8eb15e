"""What becomes of requests that move while their clients leave, or while other workers sleep."""

from __future__ import annotations

import pytest

from dynamo_cli.messages.request import (
    Abort,
    AbortRequests,
    AddRequest,
    MoveReason,
    Reply,
    RequestMoved,
)
from dynamo_cli.messages.routing import RequestEnd, RouteQuery

from .stage import Stage, stream_to_its_end
from .test_moves import moved_to, output_of, started

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("back", [True, False])
def test_a_request_whose_client_leaves_while_it_waits_has_not_moved(
    stage: Stage, back: bool
) -> None:
    stage.kill(stage.workers[1])
    name, lost = started(stage)
    stage.kill(stage.workers[0])
    assert stage.router.take(RequestEnd).request_id == lost.request_id
    stage.route(None)
    stage.frontend.send(Abort(name, "client_left"))
    other = stage.ask()  # it begins to wait later, and so waits longer
    stage.route(None)
    if back:
        stage.link(stage.workers[0])
        stage.route(0, skip=RequestEnd)  # nobody asks for the one that is over
        stage.workers[0].complete(stage.workers[0].take(AddRequest))
    told = stage.nothing_is_left()
    assert not [message for message in told if isinstance(message, RequestMoved)]
    (reply,) = [message for message in told if isinstance(message, Reply)]
    assert (reply.request_id, reply.status) == (other, 200 if back else 503)


def test_a_request_waits_for_its_worker_while_the_others_sleep(stage: Stage) -> None:
    name, lost = started(stage)
    stage.kill(stage.workers[0])
    added = moved_to(stage, 1, lost)
    assert stage.moved().reason is MoveReason.DIED
    stage.workers[1].refuse(added, 503)
    assert stage.router.take(RequestEnd).request_id == added.request_id
    assert set(stage.route(None).excluded) == {0, 1}
    stage.link(stage.workers[0])
    assert stage.route(0).excluded == (1,)
    again = stage.workers[0].take(AddRequest)
    assert output_of(again) == output_of(added)
    assert stage.moved().reason is MoveReason.ASLEEP
    stage.workers[0].complete(again)
    assert not stream_to_its_end(stage, name)[1].error
    stage.nothing_is_left()


def test_a_worker_that_refused_a_request_may_take_it_in_its_next_life(stage: Stage) -> None:
    name, lost = started(stage)
    stage.workers[0].refuse(lost, 503)
    added = moved_to(stage, 1, lost)
    assert stage.moved().reason is MoveReason.ASLEEP
    stage.kill(stage.workers[0])
    stage.kill(stage.workers[1])
    assert stage.router.take(RequestEnd).request_id == added.request_id
    stage.route(None)
    stage.link(stage.workers[0])
    assert stage.route(0).excluded == (1,)
    again = stage.workers[0].take(AddRequest)
    assert stage.moved().reason is MoveReason.DIED
    stage.workers[0].complete(again)
    assert not stream_to_its_end(stage, name)[1].error
    stage.nothing_is_left()


def test_a_request_that_waits_for_the_router_is_not_moved_a_second_time(hasty: Stage) -> None:
    name, lost = hasty.place()
    hasty.kill(hasty.workers[0])
    assert hasty.router.take(RequestEnd).request_id == lost.request_id
    query = hasty.router.take(RouteQuery)  # which the router does not answer yet
    other, _ = hasty.place(worker=1)
    reply = hasty.frontend.take(Reply)  # so more than a second is over
    assert (reply.request_id, reply.error) == (other, "first_token_timeout")
    hasty.workers[1].take(AbortRequests)
    hasty.answer(query, 1)
    added = hasty.workers[1].take(AddRequest)
    assert added.request_id == query.request_id
    assert hasty.moved().reason is MoveReason.DIED
    hasty.workers[1].complete(added)
    assert hasty.frontend.take(Reply).request_id == name
