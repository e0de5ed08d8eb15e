"""``dynamo-llm chat``: one question, a conversation, its commands, and what can go wrong."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest

from dynamo_cli.cli import chat, chat_client, own_server
from dynamo_cli.cli.chat import ChatOptions, ChatSession
from dynamo_cli.cli.chat_client import Piece, Server, Took
from dynamo_cli.errors import ServerFailed
from tests.load.fake import FakeServer, Manner
from tests.support.server import COMMAND


class Told:
    """A server that gives these answers, and keeps what it was asked."""

    url = "http://told"

    def __init__(self, *answers: list[Any]) -> None:
        self.answers = list(answers)
        self.asked: list[list[dict[str, str]]] = []
        self.closed = 0

    def answer(self, body: dict[str, Any]) -> Iterator[Piece | Took]:
        self.asked.append(body["messages"])
        try:
            for one in self.answers.pop(0):
                if isinstance(one, BaseException):
                    raise one
                yield one
        finally:
            self.closed += 1


END = Took("stop", 11, 0.05, 0.55)


def talk_with(server: Told, **changed: Any) -> ChatSession:
    return ChatSession(server, "m", {"max_tokens": 9}, **changed)  # type: ignore[arg-type]


def type_lines(monkeypatch: pytest.MonkeyPatch, *lines: str | BaseException) -> None:
    """Let these lines be typed, and then Ctrl-D."""
    left = iter([*lines, EOFError()])

    def typed(prompt: str) -> str:
        line = next(left)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)


def test_a_conversation_goes_on_until_it_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [[Piece("Pa"), Piece("ris."), END], [Piece("So what?"), END], [Piece("Hm"), END]]
    server = Told(*answers)
    type_lines(monkeypatch, "Capital?", "And?", "/system Be brief", "Why?", "", "/what", "/quit")
    chat._loop(talk_with(server))
    out, err = capsys.readouterr()
    assert out == "Paris.\nSo what?\nHm\n"
    assert [[one["content"] for one in messages] for messages in server.asked] == [
        ["Capital?"],
        ["Capital?", "Paris.", "And?"],
        ["Be brief", "Why?"],
    ]
    assert "11 tokens, first after 50 ms, 20 tok/s\n" in err
    assert "no command /what; /help lists them" in err


def test_what_fails_or_is_stopped_ends_nothing_and_leaves_no_half_messages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = Told(
        [Piece("x"), ServerFailed("too long.")],
        [KeyboardInterrupt()],
        [Piece("One, two"), KeyboardInterrupt()],
        [Piece("three"), END],
    )
    type_lines(monkeypatch, "a", "b", KeyboardInterrupt(), "c", "d")
    chat._loop(talk_with(server))
    _, err = capsys.readouterr()
    assert "error: too long." in err
    assert err.count("stopped") == 2
    assert "/quit leaves" in err
    assert [one["content"] for one in server.asked[-1]] == ["c", "One, two", "d"]
    assert server.closed == 4, "stopped requests are ended at the server too"


def test_an_answer_does_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    server = Told([Piece("hm", thought=True), Piece("a\x1b[2Jb\x07\tc\n"), END])
    talk = talk_with(server)
    talk.say("x")
    assert capsys.readouterr().out == "a[2Jb\tc\n", "thoughts are shown on terminals only"
    assert talk.messages[-1]["content"] == "a\x1b[2Jb\x07\tc\n", "thoughts are not said"


def run(*args: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, "chat", *args],
        input=given,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": "/usr/bin:/bin"},
    )


def test_one_question_from_the_command_line_or_a_pipe() -> None:
    with FakeServer(Manner(key="sesame")) as server:
        known = ("--url", server.url, "--api-key", "sesame", "--max-tokens", "3")
        done = run(*known, "hello there")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("w0 w1 w2")
        assert run(*known, given="from a pipe\n").returncode == 0
        said = [body["messages"][-1]["content"] for body in server.bodies]
        assert said == ["hello there", "from a pipe"]
        assert run(*known, given="").returncode == 2
        done = run(*known, "--model", "nobody", "x")
        assert (done.returncode, "it has first" in done.stderr) == (2, True)


def test_errors_are_one_line_with_the_servers_reason() -> None:
    with FakeServer(Manner(fail=429)) as server:
        done = run("--url", server.url, "x")
    assert (done.returncode, done.stderr) == (1, "dynamo-llm: error: too much\n")
    done = run("--url", "127.0.0.1:1", "x")
    assert done.returncode == 1
    assert done.stderr.startswith("dynamo-llm: error: no answer from http://127.0.0.1:1: ")


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        (Manner(break_off=True), "middle|no answer"),
        (Manner(last=b""), "in the middle"),
        (Manner(last=b'data: {"error": {"message": "it died"}}\n\n'), "^it died$"),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(manner: Manner, reason: str) -> None:
    with FakeServer(manner) as fake, pytest.raises(ServerFailed, match=reason):
        list(Server(fake.url).answer({"model": "first", "messages": [], "max_tokens": 3}))


@pytest.mark.parametrize(
    ("key", "why"), [("", "wants an API key"), ("other", "does not accept this API key")]
)
def test_what_to_do_about_a_key_is_said(key: str, why: str) -> None:
    with FakeServer(Manner(key="sesame")) as fake:
        with pytest.raises(ServerFailed) as raised:
            Server(fake.url, key).models()
        assert raised.value.message == (
            f"{fake.url} {why}: give one of its keys with --api-key, or in the variable "
            "DYNAMO_LLM_API_KEY."
        )
        assert Server(fake.url, "sesame").models() == ["first", "second"]


def test_a_server_is_started_only_where_none_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def serving(words: list[str], tell: object) -> AbstractContextManager[str]:
        return nullcontext(f"http://own-of-{words[1]}")

    monkeypatch.setattr(own_server, "serving", serving)
    with FakeServer(Manner(key="sesame")) as server:
        monkeypatch.setattr(chat, "DEFAULT_URL", server.url)
        with pytest.raises(ServerFailed, match="key"), chat._server(ChatOptions()):
            pass
    with chat._server(ChatOptions(model="tiny")) as (own, model):
        assert (own.url, model) == ("http://own-of-tiny", "tiny")
    assert f"no server at {server.url}: one is started for tiny" in capsys.readouterr().err
    with (
        pytest.raises(ServerFailed, match="no answer"),
        chat._server(ChatOptions(url=server.url)),
    ):
        pass


def test_an_answer_may_take_longer_than_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_client, "CONNECT_TIMEOUT_S", 0.2)
    with FakeServer(Manner(token_s=0.4)) as fake:
        *_, end = Server(fake.url).answer({"model": "first", "messages": [], "max_tokens": 1})
    assert isinstance(end, Took)
    assert end.reason == "length"


def test_no_line_of_the_help_is_broken_in_a_narrow_terminal() -> None:
    assert max(map(len, chat.HELP.splitlines())) <= 80
