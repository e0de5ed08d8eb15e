"""The reference pages are what the code says."""

from __future__ import annotations

import pytest

from tests.reference.pages import PAGES, path_of


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_that_of_the_code(name: str) -> None:
    """``make reference`` writes it anew."""
    assert path_of(name).read_text() == PAGES[name]()
