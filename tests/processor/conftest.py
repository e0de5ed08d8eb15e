"""A processor that the tests of this folder share, and its neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dynamo_cli.config import MigrationRule

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


@pytest.fixture(scope="package")
def hasty_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    rule = MigrationRule(limit=2, timeout_s=60, first_token_timeout_s=1)
    stage = Stage(tmp_path_factory.mktemp("tiny"), rule)
    stage.close()
    yield stage
    stage.end()


@pytest.fixture
def hasty(hasty_process: Stage) -> Iterator[Stage]:
    """A processor that waits a second for first tokens."""
    hasty_process.open()
    yield hasty_process
    hasty_process.close()
