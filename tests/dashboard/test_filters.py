"""Filters of tables: words, conditions on fields, and what is wrong with them."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from dynamo_cli.dashboard.filters import Field, parse, quantity


class Item(NamedTuple):
    worker: int | None
    ttft: float | None
    state: str


ITEMS = [Item(3, 0.2, "done"), Item(1, 1.5, "decode running"), Item(None, None, "failed error")]
FIELDS: dict[str, Field[Item]] = {
    "worker": lambda item: item.worker,
    "ttft": lambda item: item.ttft,
    "state": lambda item: item.state,
}


def chosen(text: str) -> list[int]:
    found = parse(text, lambda item: item.state, FIELDS)
    return [place for place, item in enumerate(ITEMS) if found.accepts(item)]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("", [0, 1, 2]),
        ("worker:3", [0]),
        ("WORKER=1", [1]),
        ("worker:none", [2]),
        ("ttft>1s", [1]),
        ("ttft>=200ms", [0, 1]),
        ("ttft<1", [0]),
        ("state:run", [1]),
        ("error", [2]),
        ("-error", [0, 1]),
        ("-worker:3 ttft>0", [1]),
        ("ttft> done", [0]),  # the condition is still being typed
        ("12:30", []),  # a word
        ("ttft>long", []),
        ("ttft>0.2", [1]),
        ("ttft<=0.2s", [0]),
        ("worker=3", [0]),
        ("-", [0, 1, 2]),
        ("-ttft>1s", [0, 2]),
        ("state:DONE", [0]),
        ("DONE", [0]),
        ("other:done", []),  # no field, so a word
    ],
)
def test_rows_for_which_all_parts_hold_are_shown(text: str, places: list[int]) -> None:
    assert chosen(text) == places


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("250ms", 0.25), ("1.5s", 1.5), ("2min", 120.0), ("2k", 2000.0), ("3M", 3e6)),
        *(
            ("80%", 0.8),
            ("3h", 10800.0),
            ("4us", 4e-6),
            ("4µs", 4e-6),
            ("2G", 2e9),
            ("2 MS", 0.002),
            ("7", 7.0),
            ("-1", -1.0),
            ("x", None),
            ("5 parsecs", None),
        ),
    ],
)
def test_a_number_has_a_unit(text: str, value: float | None) -> None:
    assert quantity(text) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("tfft>1s", "there is no field 'tfft' here; there are worker, ttft, state"),
        ("ttft>long", "ttft> takes a number, such as 5, 250ms"),
        ("ttft>long tfft>1s", "ttft> takes a number"),
        ("ttft>long worker>x", "ttft> takes a number"),
        ("tfft>1s ttft>long", "there is no field 'tfft'"),
        ("tfft:1s", ""),
        ("worker:3 ttft>1s word -word", ""),
    ],
)
def test_what_is_wrong_is_said(text: str, problem: str) -> None:
    found = parse(text, lambda item: item.state, FIELDS).problem
    assert found.startswith(problem)
    assert bool(found) == bool(problem)


def test_a_table_without_fields_says_so() -> None:
    found = parse("worker>3", lambda item: item.state, {})
    assert found.problem == "there is no field 'worker' here; only words can be searched"
