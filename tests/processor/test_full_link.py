"""An answer that does not fit into the link to the frontend ends with an error."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.call import call
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


def what_is_sent(pending: str, full: bool) -> list[str]:
    """What is sent when the stream "a" ends while a chunk of the stream `pending` waits."""
    from dynamo_cli.messages.request import Chunk, Finish, Usage
    from dynamo_cli.processor.process import Processor
    from dynamo_cli.topology import FRONTEND

    sent: list[str] = []

    def offer(_: object, message: object) -> bool:
        sent.append(f"offer {message}")
        return not full

    one: Any = object.__new__(Processor)
    one._chunks = [Chunk(pending, b"x", 1)]
    one._requests = {name: (f"of {name}", SimpleNamespace(cancel=bool)) for name in "ab"}
    one._switchboard = SimpleNamespace(
        offer=offer,
        owe=lambda _, message: sent.append(f"owe {message}"),
        links={FRONTEND: None},
    )
    one._serving = SimpleNamespace(last_words=lambda request, _: [f"last words {request}"])
    one._tell(Finish("a", Usage()))
    return [word.partition("(")[0] + (" with end" if "=Finish(" in word else "") for word in sent]


@pytest.mark.parametrize(
    ("pending", "full", "sent"),
    [
        ("a", False, ["offer Chunks with end"]),
        ("a", True, ["offer Chunks with end", "owe last words of a"]),
        ("b", False, ["offer Chunks", "owe Finish"]),
        ("b", True, ["offer Chunks", "owe last words of b", "owe Finish"]),
    ],
)
def test_the_end_of_a_stream_is_never_lost(pending: str, full: bool, sent: list[str]) -> None:
    assert call(what_is_sent, pending, full) == sent
