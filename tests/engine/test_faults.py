"""Errors in an engine step: they fail the request that caused them, and no other."""

from __future__ import annotations

import pytest

from tests.support.driver import drive, tiny

FAILED = "the engine failed while it ran this request: RuntimeError: "


@pytest.mark.engine
def test_a_step_that_fails_for_one_request_fails_that_one() -> None:
    result, log = drive("tests.engine.fault_driver", tiny())
    plain = result["plain"]
    assert {name: len(tokens) for name, tokens in plain.items()} == {"a": 40, "b": 40, "c": 40}
    for after, answers in result["named"].items():
        assert {name: answers[name] for name in "ac"} == {name: plain[name] for name in "ac"}, after
        assert answers.get("b", []) == plain["b"][: int(after)]
    assert result["failed"] == [[0, "b-request", 500, f"{FAILED}cannot sample for b-request"]] * 3
    assert result["alone"] == {}
    assert result["failed alone"] == [[0, "a-request", 500, f"{FAILED}no name in it"]]
    assert result["grammar"] == {"a": plain["a"]}
    assert result["tables"] == 0, "those that were made at the start are used"
    ((client, request_id, status, why),) = result["failed grammar"]
    assert (client, request_id, status) == (0, "b-request", 400)
    assert why.startswith("the grammar or schema cannot be compiled: ")
    assert "parser error at line 1" in why
    assert result["after"] == plain
    alone, together = result["large"]
    assert alone[0] == {name: plain[name] for name in "ac"}
    ((client, request_id, status, why),) = alone[2]
    assert (client, request_id, status) == (0, "b-request", 413)
    assert "ask for less" in why
    assert together == [plain, 3, []], "all fit, but not into one message"
    assert result["twice"] == "a request 'a-request' is running already. 5"
    why = "the engine did not take this request: RuntimeError: no place in the queue."
    assert result["refused"] == [[why, why], {}]
    assert result["copies"] == [True, False], "nobody would be told which of them have ended"
    assert result["unnamed"] == "nobody is to blame"
    assert "with these requests failed: a-request, b-request, c-request" in log
    assert result["naps"] == 0  # no step with outputs has waited
