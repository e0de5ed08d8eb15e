"""The paths of commands that change a running server; they need ``--enable-admin``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from multidict import MultiMapping

from dynamo_cli.errors import NotFound
from dynamo_cli.frontend.admin.adapters import Adapters
from dynamo_cli.frontend.admin.engines import EngineOperations
from dynamo_cli.frontend.admin.prefill_bounds import Placement
from dynamo_cli.frontend.admin.scaling import Scaling
from dynamo_cli.frontend.http.server import json_response

WORKERS, PLACEMENT = "/dynamo/workers", "/dynamo/placement"
LOAD_ADAPTER, UNLOAD_ADAPTER = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
ACCEPTED = 202

CommandHandler = Callable[[MultiMapping[str], bytes], Awaitable[web.Response]]
"""Answers a request from its query and its body; it is not cancelled when its client leaves."""

JsonSource = Callable[[], dict[str, Any]]
"""Gives the JSON of an answer."""


class Admin:
    """The handlers of these paths.

    Args:
        enabled: whether ``--enable-admin`` was given.

    Attributes:
        commands: the handlers of what changes the server, by path and method.
        views: what GET shows of some of these paths, with ``--enable-admin`` or without.
    """

    def __init__(
        self,
        *,
        enabled: bool,
        adapters: Adapters,
        engines: EngineOperations,
        scaling: Scaling,
        placement: Placement,
    ) -> None:
        self._enabled = enabled
        self._adapters = adapters
        self._scaling = scaling
        self._placement = placement
        self.commands: dict[str, dict[str, CommandHandler]] = {
            LOAD_ADAPTER: {"POST": self._load_adapter},
            UNLOAD_ADAPTER: {"POST": self._unload_adapter},
            "/sleep": {"POST": _of(engines.sleep)},
            "/wake_up": {"POST": _of(engines.wake_up)},
            "/is_sleeping": {"GET": _of(engines.is_sleeping)},
            "/reset_prefix_cache": {"POST": _of(engines.reset_prefix_cache)},
            WORKERS: {"POST": self._scale},
            PLACEMENT: {"POST": self._place},
        }
        self.views: dict[str, JsonSource] = {WORKERS: scaling.show, PLACEMENT: placement.show}

    def check_enabled(self, path: str, method: str) -> None:
        """Raises `NotFound` for a command if ``--enable-admin`` was not given."""
        if not self._enabled and method in self.commands.get(path, {}):
            raise NotFound(f"{method} {path} needs a server started with --enable-admin.")

    async def _load_adapter(self, _: MultiMapping[str], body: bytes) -> web.Response:
        return web.Response(text=await self._adapters.load(body))

    async def _unload_adapter(self, _: MultiMapping[str], body: bytes) -> web.Response:
        return web.Response(text=await self._adapters.unload(body))

    async def _scale(self, _: MultiMapping[str], body: bytes) -> web.Response:
        return json_response(await self._scaling.change(body), ACCEPTED)

    async def _place(self, _: MultiMapping[str], body: bytes) -> web.Response:
        return json_response(self._placement.change(body))


def _of(action: Callable[[Any], Awaitable[dict[str, Any]]]) -> CommandHandler:
    """A command from an action that takes a query and gives JSON."""

    async def command(query: MultiMapping[str], _: bytes) -> web.Response:
        return json_response(await action(query))

    return command
