"""Answers of the supervisor to requests for another number of workers."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from dynamo_cli.errors import Conflict
from dynamo_cli.frontend.admin.scaling import Scaling
from dynamo_cli.messages.lifecycle import Rescale, Rescaled

from .test_exchange import in_a_loop


def no_snapshot() -> Any:
    raise AssertionError("a refused change shows nothing")


@in_a_loop
async def test_an_answer_to_a_client_that_has_left_is_nobody_elses() -> None:
    sent: list[Rescale] = []
    scaling = Scaling(sent.append, no_snapshot)
    asked = [asyncio.create_task(scaling.change(b'{"count": %d}' % count)) for count in (1, 2)]
    await asyncio.sleep(0)
    assert [rescale.count for rescale in sent] == [1, 2]
    asked[0].cancel()
    with suppress(asyncio.CancelledError):
        await asked[0]
    scaling.answered(Rescaled(1))
    scaling.answered(Rescaled(1, "Conflict", "there is no GPU for one more."))
    with pytest.raises(Conflict, match="no GPU"):
        await asked[1]
