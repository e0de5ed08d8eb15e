"""LoRA adapters that are loaded and unloaded at run time: one list, which every processor gets.

A processor resolves the model name of a request, and its message to the engine has the number and
the path of the adapter. An engine that does not know the number loads the files, so workers that
start later need not be told. A number is never used twice: an adapter that is loaded again under
the same name is another adapter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from dynamo_cli.config import Adapter, AdapterTable
from dynamo_cli.errors import (
    DynamoError,
    InvalidRequest,
    NotFound,
    NotReady,
    PeerLost,
    Unavailable,
    error_class_of,
)
from dynamo_cli.frontend.exchange import Exchange
from dynamo_cli.frontend.http.admission import check_body
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter
from dynamo_cli.messages.request import Reply
from dynamo_cli.topology import ProcessId

logger = logging.getLogger(__name__)

AdapterChange = type[LoadAdapter | UnloadAdapter]

TIMEOUT_S = 300.0
"""How long a processor may take until all workers have loaded an adapter."""

MAX_CHARACTERS = {"lora_name": 256, "lora_path": 4096}
"""Bounds on what is kept of each adapter and sent to every process; no path of Linux is longer."""


class Adapters:
    """Holds the adapters that were loaded at run time.

    Args:
        exchange: sends changes to processors.
        table: the adapters that were loaded before this process was restarted.
        remember: saves the current table for the next start of this process.
    """

    def __init__(
        self, exchange: Exchange, table: AdapterTable, remember: Callable[[AdapterTable], None]
    ) -> None:
        self._exchange = exchange
        self._adapters = {adapter.name: adapter for adapter in table.adapters}
        self._last_number = table.last_number
        self._remember = remember
        self._changing = asyncio.Lock()

    async def load(self, body: bytes) -> str:
        """Load an adapter in all processors and all ready workers.

        Args:
            body: JSON as vLLM's server takes it.

        Returns:
            the message that vLLM's server answers with.

        Raises:
            DynamoError: the adapter cannot be loaded; nothing is changed.
        """
        name, path, is_3d = _load_request(body)
        async with self._changing:
            if name in self._adapters:
                raise InvalidRequest(
                    f"the adapter {name!a} is loaded already; unload it first.", param="lora_name"
                )
            self._last_number += 1
            adapter = Adapter(name, path, self._last_number, is_3d)
            try:
                await self._tell_all(LoadAdapter, adapter)
            except BaseException:
                self._save()  # the number is used up
                raise
            self._adapters[name] = adapter
            self._save()
        return f"Success: LoRA adapter '{name}' added successfully."

    async def unload(self, body: bytes) -> str:
        """Unload an adapter from all processors; running requests that use it finish.

        Raises:
            DynamoError: there is no such adapter, or a processor cannot unload it, which can be
                tried again.
        """
        name = _text(check_body(body), "lora_name")
        async with self._changing:
            adapter = self._adapters.get(name)
            if adapter is None:
                raise NotFound(f"no adapter {name!a} was loaded through /v1/load_lora_adapter.")
            del self._adapters[name]
            self._save()
            try:
                await self._tell_all(UnloadAdapter, adapter)
            except DynamoError:
                self._adapters[name] = adapter
                self._save()
                raise
        return f"Success: LoRA adapter '{name}' removed successfully."

    async def welcome(self, processor: ProcessId, generation: int) -> None:
        """Load all adapters in a new processor, then let it take requests.

        A processor that cannot load an adapter takes requests for all other models. If it is lost
        meanwhile, this ends: its next life is welcomed when that is ready.

        Args:
            generation: that of its link.
        """
        async with self._changing:
            for adapter in self._adapters.values():
                if not self._exchange.reaches(processor, generation):
                    return
                try:
                    await self._tell(processor, LoadAdapter, adapter)
                except DynamoError as error:
                    if not self._exchange.reaches(processor, generation):
                        return
                    logger.warning(
                        "%s answers requests for the adapter %a with 404 until it is unloaded and "
                        "loaded again: %s",
                        processor.name,
                        adapter.name,
                        error.message,
                    )
            if self._exchange.reaches(processor, generation):
                self._exchange.processor_up(processor)

    def _save(self) -> None:
        self._remember(AdapterTable(tuple(self._adapters.values()), self._last_number))

    async def _tell_all(self, change: AdapterChange, adapter: Adapter) -> None:
        """Change all processors that take requests; one that is restarted gets the list again."""
        processors = self._exchange.processors
        if not processors:
            raise NotReady(
                "no processor can take requests right now; try again soon.", retry_after_s=1
            )
        told = (self._tell(processor, change, adapter) for processor in processors)
        if not (failures := await _failures(told)):
            return
        if change is LoadAdapter:
            taken_back = (self._tell(processor, UnloadAdapter, adapter) for processor in processors)
            await _failures(taken_back)
        raise failures[0]

    async def _tell(self, processor: ProcessId, change: AdapterChange, adapter: Adapter) -> None:
        call = self._exchange.change_adapter(processor, change, adapter)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                answer = await call.answer
        except TimeoutError as error:
            raise Unavailable(
                f"{processor.name} did not answer within {TIMEOUT_S:.0f} s."
            ) from error
        finally:
            self._exchange.close(call)
        assert isinstance(answer, Reply)
        if answer.status != 200:
            message = orjson.loads(answer.body)["error"]["message"]
            raise error_class_of(answer.status, answer.error)(message)


async def _failures(calls: Iterable[Awaitable[None]]) -> list[BaseException]:
    """The errors of all calls, except those of processors that are gone.

    A processor that is there and does not answer, or whose link is full, is a failure: what it
    knows of the adapter would differ from what the others know.
    """
    results = await asyncio.gather(*calls, return_exceptions=True)
    return [
        result
        for result in results
        if isinstance(result, BaseException) and not isinstance(result, PeerLost)
    ]


def _load_request(body: bytes) -> tuple[str, str, bool]:
    """Name, path and layout (3D or not) of an adapter. Raises `InvalidRequest`."""
    request = check_body(body)
    if request.get("load_inplace"):
        raise InvalidRequest(
            "load_inplace is not supported: unload the adapter, then load it under the same name.",
            param="load_inplace",
        )
    is_3d = request.get("is_3d_lora_weight", False)
    if not isinstance(is_3d, bool):
        raise InvalidRequest("is_3d_lora_weight must be true or false.", param="is_3d_lora_weight")
    return _text(request, "lora_name"), _text(request, "lora_path"), is_3d


def _text(request: dict[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name} must be a string that is not empty.", param=name)
    if len(value) > (most := MAX_CHARACTERS[name]):
        raise InvalidRequest(
            f"{name} has {len(value)} characters, and {most} is the most.", param=name
        )
    return value
