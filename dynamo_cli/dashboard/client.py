"""Follows the stream of a frontend, and reconnects whenever the connection is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
import msgspec

from dynamo_cli import api_key
from dynamo_cli.dashboard.events import ConnectionChange, Event, RequestTimelines, State, decode
from dynamo_cli.errors import CannotWatch
from dynamo_cli.event_stream import EventStreamParser
from dynamo_cli.host import oserrors
from dynamo_cli.watch.timelines import TimelineView

STREAM, TIMELINE, RECORD = "/dynamo/stream", "/dynamo/timeline", "/dynamo/record"
CONNECT_TIMEOUT_S, SILENCE_TIMEOUT_S = 5.0, 15.0
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 5.0
INTERVAL_S = 0.25
NOT_FOUND = 404
MOST_REQUESTS = 2_000
"""Most requests that are asked for at once."""


class _Timelines(msgspec.Struct):
    timelines: list[TimelineView]


_timelines = msgspec.json.Decoder(_Timelines).decode


class DashboardClient:
    """A client of one server.

    Args:
        url: address of the server; it may be set or changed later.
        key: API key; empty if the server needs none.
        interval_s: time between snapshots.
    """

    def __init__(self, url: str, key: str = "", interval_s: float = INTERVAL_S) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._interval_s = interval_s

    async def events(self) -> AsyncGenerator[Event]:
        """Generate the events of the server, and a `ConnectionChange` whenever the connection
        changes.

        This never ends: a lost connection is tried again, with growing pauses.
        """
        delay = FIRST_RETRY_S
        while True:
            try:
                async for event in self._listen():
                    delay = FIRST_RETRY_S
                    yield event
            except CannotWatch as failure:
                yield ConnectionChange(State.LOST, self.url, f"{failure.message} Trying again.")
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_RETRY_S)

    async def once(self) -> AsyncGenerator[Event]:
        """Generate the events of the server until the connection ends.

        Raises:
            CannotWatch: the server cannot be reached, or the connection has ended.
        """
        async for event in self._listen():
            yield event

    async def timelines(self, request_id: str) -> list[TimelineView]:
        """Return the timelines of the requests with this id: those that run, then those that ended.

        Raises:
            CannotWatch: the server does not answer.
        """
        return await self._timelines({"request_id": request_id, "state": "all"})

    async def requests(self, after: int) -> RequestTimelines:
        """Return the requests that run, and those that ended after the one with this number.

        Raises:
            CannotWatch: the server does not answer.
        """
        asked = {"state": "all", "after": str(after), "limit": str(MOST_REQUESTS)}
        return RequestTimelines(await self._timelines(asked))

    async def record(self, seconds: float) -> bytes:
        """Return what the server has recorded in the last seconds, as lines of JSON.

        Raises:
            CannotWatch: the server does not answer, or records nothing.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_read=SILENCE_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.get(self.url + RECORD, params={"seconds": f"{seconds:g}"}) as answer,
            ):
                if answer.status == NOT_FOUND:
                    raise CannotWatch(
                        "this server records no requests; start it with --record FILE."
                    )
                self._check(answer)
                return await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise CannotWatch(f"{self.url} does not answer: {_why(error)}.") from error

    async def _timelines(self, asked: dict[str, str]) -> list[TimelineView]:
        timeout = aiohttp.ClientTimeout(total=CONNECT_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.get(self.url + TIMELINE, params=asked) as answer,
            ):
                self._check(answer)
                return _timelines(await answer.read()).timelines
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise CannotWatch(f"{self.url} does not answer: {_why(error)}.") from error
        except msgspec.DecodeError as error:
            raise _other_version(self.url, error) from error

    async def _listen(self) -> AsyncGenerator[Event]:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S
        )
        stream = EventStreamParser()
        try:
            async with (
                aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session,
                session.get(
                    self.url + STREAM, params={"interval": str(self._interval_s)}
                ) as answer,
            ):
                self._check(answer)
                yield ConnectionChange(State.LIVE, self.url)
                async for data in answer.content.iter_any():
                    for name, content in stream.feed(data):
                        if (event := decode(name, content)) is not None:
                            yield event
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if isinstance(error, msgspec.DecodeError):
                raise _other_version(self.url, error) from error
            raise CannotWatch(f"no server at {self.url}: {_why(error)}.") from error
        raise CannotWatch(f"the server at {self.url} has ended its stream.")

    def _check(self, answer: aiohttp.ClientResponse) -> None:
        if answer.status == api_key.UNAUTHORIZED:
            raise CannotWatch(api_key.refused(self.url, sent=bool(self._headers)))
        if answer.status != 200:
            raise CannotWatch(
                f"{self.url} is not a dynamo-llm server: it answers {answer.status} to "
                f"{answer.url.path}."
            )


def _other_version(url: str, error: Exception) -> CannotWatch:
    return CannotWatch(f"{url} runs another version of dynamo-llm than this one: {error}.")


def _why(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        return oserrors.reason(error.os_error)
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    return " ".join(str(error).split()) or type(error).__name__
