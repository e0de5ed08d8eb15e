"""A conversation with an OpenAI server: sends messages, and gives the answer piece by piece."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson

from dynamo_cli import api_key
from dynamo_cli.errors import ServerFailed
from dynamo_cli.event_stream import EventStreamParser
from dynamo_cli.host import oserrors

CONNECT_TIMEOUT_S = 5.0
PIECE_BYTES = 64 * 1024
DONE = b"[DONE]"


class NoServer(ServerFailed):
    """Nothing listens at the address."""


class Piece(msgspec.Struct, frozen=True):
    """A piece of an answer.

    Attributes:
        thought: whether it belongs to the reasoning before the answer.
    """

    text: str
    thought: bool = False


class Took(msgspec.Struct, frozen=True):
    """The end of an answer.

    Attributes:
        reason: why it ended: stop, length ...
        tokens: number of its tokens.
        ttft_s, total_s: time to its first piece, and to its end.
    """

    reason: str
    tokens: int
    ttft_s: float
    total_s: float


class Server:
    """An OpenAI server.

    Args:
        url: its address without a path.
        key: API key; empty if it needs none.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        self._kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path
        self._headers = {"Content-Type": "application/json"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def models(self) -> list[str]:
        """Names of its models.

        Raises:
            NoServer: nothing listens there.
            ServerFailed: it does not answer, or not like an OpenAI server.
        """
        connection = self._connect()
        try:
            content = orjson.loads(self._open(connection, "GET", "/v1/models").read())
            return [str(model["id"]) for model in content["data"]]
        except (http.client.HTTPException, OSError) as error:
            raise self._failed(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ServerFailed(f"{self.url} does not answer like an OpenAI server.") from error
        finally:
            connection.close()

    def answer(self, body: dict[str, Any]) -> Iterator[Piece | Took]:
        """Ask for the answer to a conversation; its pieces come as the server sends them.

        Closing the iterator ends the request.

        Raises:
            ServerFailed: there is no whole answer; the message has the server's reason.
        """
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        began_s = time.monotonic()
        connection = self._connect()
        try:
            yield from self._pieces(connection, orjson.dumps(body), began_s)
        except (http.client.HTTPException, OSError) as error:
            raise self._failed(error) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ServerFailed(f"{self.url} does not answer like an OpenAI server.") from error
        finally:
            connection.close()

    def _pieces(
        self, connection: http.client.HTTPConnection, body: bytes, began_s: float
    ) -> Iterator[Piece | Took]:
        response = self._open(connection, "POST", "/v1/chat/completions", body)
        events, ttft_s, tokens, reason = EventStreamParser(), 0.0, 0, ""
        while data := response.read1(PIECE_BYTES):
            for event in events.feed(data):
                if event.data == DONE:
                    total_s = time.monotonic() - began_s
                    yield Took(reason, tokens, ttft_s or total_s, total_s)
                    return
                content = orjson.loads(event.data)
                if (error := content.get("error")) is not None:
                    raise ServerFailed(str(error["message"]))
                tokens = (content.get("usage") or {}).get("completion_tokens") or tokens
                for choice in content.get("choices", ()):
                    reason = choice.get("finish_reason") or reason
                    for piece in _texts(choice["delta"]):
                        ttft_s = ttft_s or time.monotonic() - began_s
                        yield piece
        raise ServerFailed(f"{self.url} ended the answer in the middle.")

    def _connect(self) -> http.client.HTTPConnection:
        connection = self._kind(self._host, self._port, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
        except OSError as error:
            raise NoServer(self._failed(error).message) from error
        assert connection.sock is not None
        connection.sock.settimeout(None)  # an answer may take long; Ctrl-C ends it
        return connection

    def _open(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
    ) -> http.client.HTTPResponse:
        connection.request(method, self._path + path, body, self._headers)
        response = connection.getresponse()
        if response.status == api_key.UNAUTHORIZED:
            sent = "Authorization" in self._headers
            raise ServerFailed(api_key.refused(self.url, sent=sent))
        if response.status != http.HTTPStatus.OK:
            raise ServerFailed(_reason(response.read(), f"{self.url} answers {response.status}."))
        return response

    def _failed(self, error: Exception) -> ServerFailed:
        why = oserrors.reason(error) if isinstance(error, OSError) else str(error).lower()
        why = why or type(error).__name__
        return ServerFailed(f"no answer from {self.url}: {why}.")


def _texts(delta: dict[str, Any]) -> Iterator[Piece]:
    """The texts in a delta; servers have two names for reasoning."""
    if thought := delta.get("reasoning_content") or delta.get("reasoning"):
        yield Piece(thought, thought=True)
    if text := delta.get("content"):
        yield Piece(text)


def _reason(body: bytes, otherwise: str) -> str:
    """The message of an error in OpenAI's shape."""
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return otherwise
