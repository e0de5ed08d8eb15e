"""An answer that does not fit into the link to the frontend ends with an error."""

from __future__ import annotations

import pytest

from tests.support.driver import run

pytestmark = pytest.mark.engine


def test_an_answer_that_a_full_link_cuts_ends_with_an_error() -> None:
    done = run("tests.processor.full_link")
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    talks = [line for line in told if "talks" in line]
    assert talks[0].startswith("Head(")
    assert any("link_full" in line for line in talks if line.startswith("Chunks("))
    assert "finish=Finish(" in talks[-1]
    assert "error='link_full'" in talks[-1]
    large = [line for line in told if "'large'" in line]
    assert large[0].startswith("Reply(")
    assert "status=413" in large[0]
    assert "message_too_large" in large[0]
    assert "ask for less" in large[0]
    bug = [line for line in told if "'bug'" in line]
    assert bug[0].startswith("Reply(")
    assert "status=500" in bug[0]
    assert "finish=Finish(" in bug[-1]
    assert "nobody expects this" not in done.stdout
    assert "nobody expects this" in done.stderr
