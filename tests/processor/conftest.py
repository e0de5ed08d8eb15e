"""A processor that the tests of this folder share, and its neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .stage import Stage


@pytest.fixture(scope="package")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("tiny"))
    stage.close()
    yield stage
    stage.end()


@pytest.fixture
def stage(process: Stage) -> Iterator[Stage]:
    process.open()
    yield process
    process.close()
