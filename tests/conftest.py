"""How the tests are shared out among the processes that run them (pytest-xdist)."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a folder stay in one process, and so share its servers."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(item.path.relative_to(HERE).parts[0]))
