"""While an engine is built, frozen objects stay frozen, and garbage among others is collected."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from tests.support.call import call

pytestmark = pytest.mark.engine


class Thing:
    """Refers to itself, so that only a collection removes it."""

    def __init__(self) -> None:
        self.itself = self


def while_it_is_built() -> list[bool]:
    """Whether objects stay frozen, and garbage goes, while vLLM's core is built; and whether
    objects can be unfrozen afterwards."""
    from dynamo_cli.engines.vllm.core import build

    told: list[bool] = []

    def core(*_: Any, **__: Any) -> None:
        gc.freeze()
        gc.unfreeze()
        thing = Thing()
        gone = weakref.ref(thing)
        del thing
        gc.collect()
        told.extend([gc.get_freeze_count() > 0, gone() is None])

    build.EngineCore, build._executor_class = core, lambda _: None  # type: ignore[assignment]
    build.build(None)
    gc.unfreeze()
    return [*told, gc.get_freeze_count() == 0]


def test_frozen_objects_stay_frozen_while_it_is_built() -> None:
    assert call(while_it_is_built) == [True, True, True]
