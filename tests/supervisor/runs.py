"""Scenarios with a supervisor in a running event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from dynamo_cli.supervisor.base_tree import Tree


class HasTree(Protocol):
    """What a scenario is about."""

    @property
    def tree(self) -> Tree:
        """The supervisor, which runs nothing of its own accord."""


R = TypeVar("R", bound=HasTree)


def play(
    make: Callable[[], R],
    scenario: Callable[[R], Awaitable[None] | None],
    end: Callable[[R], None] = lambda run: None,
) -> None:
    """Make a run in an event loop, play a scenario with it, and end what it has begun.

    Args:
        end: called last, also if the scenario fails.
    """

    async def main() -> None:
        run = make()
        try:
            if (rest := scenario(run)) is not None:
                await rest
        finally:
            run.tree._background.cancel()
            run.tree._deaths.flush()
            end(run)

    asyncio.run(main())
