"""``dynamo-llm chat``: talk to a model, of a running server or of one that is started for it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dynamo_cli import api_key
from dynamo_cli.cli.declare import application, option, takes
from dynamo_cli.cli.top import DEFAULT_URL, address_of
from dynamo_cli.errors import ServerFailed, UsageError
from dynamo_cli.plan import limits

if TYPE_CHECKING:
    from dynamo_cli.cli.chat_client import Server, Took

INTERRUPTED = 130
DEFAULT_MODEL = "demo"
HELP = """\
/new           forget the conversation
/system TEXT   begin a new one with this system prompt; without text, with none
/help          this
/quit, Ctrl-D  leave
Ctrl-C stops an answer.\
"""

UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters: an answer must not control the terminal."""

app = application()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """The command line of ``chat`` as it was typed."""

    message: Annotated[
        str,
        typer.Argument(
            metavar="MESSAGE", help="Print the answer to this, and exit; - reads standard input."
        ),
    ] = ""
    url: Annotated[
        str,
        option(
            "--url",
            metavar="URL",
            help=f"URL of the server. Default: {DEFAULT_URL}; if nothing answers there, a server "
            "is started for the time of the conversation.",
        ),
    ] = ""
    model: Annotated[
        str,
        option(
            "--model",
            metavar="NAME",
            help="Model to talk to. Default: the first that the server lists; [b]demo[/b] for a "
            "server that is started.",
        ),
    ] = ""
    api_key: Annotated[
        str,
        option(
            "--api-key",
            metavar="KEY",
            help=f"API key of the server. Also {api_key.VARIABLE} and {api_key.VLLM_VARIABLE}.",
        ),
    ] = ""
    system: Annotated[
        str, option("--system", metavar="TEXT", help="System prompt of the conversation.")
    ] = ""
    temperature: Annotated[
        float | None,
        option("--temperature", min=0, most=2, metavar="T", help="Default: the model's own."),
    ] = None
    max_tokens: Annotated[
        int | None,
        option(
            "--max-tokens",
            min=1,
            most=limits.MAX_COUNT,
            metavar="N",
            help="Longest answer. Default: what the context has room for.",
        ),
    ] = None


@app.command()
@takes(ChatOptions)
def chat(options: ChatOptions) -> None:
    """Talk to a model.

    In a terminal this asks for one message after the other, and shows each answer as it comes.
    """
    with _server(options) as (server, model):
        given = {"temperature": options.temperature, "max_tokens": options.max_tokens}
        settings = {name: value for name, value in given.items() if value is not None}
        talk = ChatSession(server, model, settings, options.system)
        if options.message or not sys.stdin.isatty():
            raise typer.Exit(_once(talk, options.message))
        _loop(talk)


@dataclass
class ChatSession:
    """A conversation with one model.

    Attributes:
        settings: fields of each request, besides the messages.
        system: system prompt; empty for none.
        messages: what was said so far, in OpenAI's shape.
    """

    server: Server
    model: str
    settings: dict[str, Any]
    system: str = ""
    messages: list[dict[str, str]] = field(default_factory=list)

    def say(self, text: str) -> Took | None:
        """Say something and print the answer.

        An answer that fails or is stopped leaves no trace in the conversation, except for what has
        been shown of a stopped one.

        Returns:
            what it took; None if Ctrl-C has stopped it.

        Raises:
            ServerFailed: there is no answer.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        heard: list[str] = []
        took = self._print_answer(messages, heard)
        self.messages = [*messages, {"role": "assistant", "content": "".join(heard)}]
        return took

    def _print_answer(self, messages: list[dict[str, str]], heard: list[str]) -> Took | None:
        from dynamo_cli.cli.chat_client import Took  # noqa: PLC0415 - the help needs none of it

        first = [{"role": "system", "content": self.system}] if self.system else []
        body = {"model": self.model, "messages": [*first, *messages], **self.settings}
        pieces = self.server.answer(body)
        try:
            for piece in pieces:
                if isinstance(piece, Took):
                    _end_line(heard)
                    return piece
                if not piece.thought:
                    heard.append(piece.text)
                _show(piece.text, dim=piece.thought)
        except KeyboardInterrupt:
            if not heard:
                raise
            _end_line(heard)
        finally:
            pieces.close()  # type: ignore[attr-defined]  # it is a generator
        return None


@contextmanager
def _server(options: ChatOptions) -> Iterator[tuple[Server, str]]:
    """The server to talk to, and the model; a server is started if none is named or running."""
    from dynamo_cli.cli.chat_client import NoServer, Server  # noqa: PLC0415 - the help needs none

    url = address_of(options.url or DEFAULT_URL)
    key = options.api_key or api_key.given_by(os.environ)
    server = Server(url, key)
    try:
        models = server.models()
    except NoServer:
        if options.url:
            raise
    else:
        yield server, _model(models, options.model, url)
        return
    from dynamo_cli.cli import own_server  # noqa: PLC0415

    model = options.model or DEFAULT_MODEL
    _note(f"no server at {url}: one is started for {model}, until you leave")
    with own_server.serving(["--model", model], _note) as own:
        yield Server(own, key), model


def _model(models: list[str], wanted: str, url: str) -> str:
    if not models:
        raise ServerFailed(f"{url} lists no model.")
    if wanted and wanted not in models:
        raise UsageError(f"{url} has no model {wanted!r}; it has {', '.join(models)}.")
    return wanted or models[0]


def _once(talk: ChatSession, message: str) -> int:
    """Print the answer to one message, which may come from a pipe; returns the exit code."""
    text = sys.stdin.read().strip() if message in ("", "-") else message
    if not text:
        raise UsageError("there is no message: give one, or pipe it into standard input.")
    talk.say(text)
    return 0


def _loop(talk: ChatSession) -> None:
    """Ask for messages until Ctrl-D."""
    import readline  # noqa: F401, PLC0415 - gives `input` its history and its editing keys

    _note(f"{talk.model} at {talk.server.url}; /help lists commands, Ctrl-D leaves")
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            _show("\n")
            return
        except KeyboardInterrupt:
            _show("\n")
            _note("Ctrl-D or /quit leaves")
            continue
        if text in ("/quit", "/exit", "/bye"):
            return
        if text.startswith("/"):
            _command(talk, text)
        elif text:
            _exchange(talk, text)


def _exchange(talk: ChatSession, text: str) -> None:
    """One message and its answer; a failure ends neither the conversation nor the program."""
    try:
        took = talk.say(text)
    except ServerFailed as error:
        _note(f"error: {error.message}")
    except KeyboardInterrupt:
        _show("\n")
        _note("stopped")
    else:
        _note("stopped" if took is None else _summary(took))


def _command(talk: ChatSession, text: str) -> None:
    name, _, rest = text.partition(" ")
    match name:
        case "/new":
            talk.messages.clear()
            _note("a new conversation")
        case "/system":
            talk.messages.clear()
            talk.system = rest.strip()
            _note("a new conversation " + ("with it" if talk.system else "without a system prompt"))
        case "/help":
            _note(HELP)
        case _:
            _note(f"no command {name}; /help lists them")


def _summary(took: Took) -> str:
    """What an answer took, and why it ended if that was not its own end."""
    decode_s = took.total_s - took.ttft_s
    speed = f", {(took.tokens - 1) / decode_s:.0f} tok/s" if took.tokens > 1 and decode_s else ""
    why = "" if took.reason in ("stop", "") else f"; ended: {took.reason}"
    return f"{took.tokens} tokens, first after {1000 * took.ttft_s:.0f} ms{speed}{why}"


def _end_line(heard: list[str]) -> None:
    if heard and not heard[-1].endswith("\n"):
        _show("\n")


def _show(text: str, *, dim: bool = False) -> None:
    """Print a piece of an answer at once. Reasoning is dim, and only terminals get it."""
    text = UNPRINTABLE.sub("", text)
    if dim:
        if not sys.stdout.isatty():
            return
        text = f"\x1b[2m{text}\x1b[0m"
    sys.stdout.write(text)
    sys.stdout.flush()


def _note(text: str) -> None:
    """Print a remark of this program, apart from answers."""
    dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    sys.stderr.write(f"\x1b[2m{text}\x1b[0m\n" if dim else f"{text}\n")
