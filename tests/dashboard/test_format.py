"""Numbers, bars and curves, formatted for people."""

from __future__ import annotations

import pytest

from dynamo_cli.dashboard import format as show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "–"), (0, "0"), (7, "7"), (9.84, "9.8"), (12.0, "12"), (12.34, "12.3")),
        *((99.94, "99.9"), (99.95, "100"), (123.4, "123"), (999, "999"), (999.4, "999")),
        *((999.6, "1.0k"), (1234, "1.2k"), (12345, "12.3k"), (123456, "123k")),
        *((1.5e6, "1.5M"), (2.5e9, "2.5G"), (25e12, "25000G")),
    ],
)
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert show.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0/s"), (0.04, "0/s"), (0.34, "0.3/s"), (9.9, "9.9/s"), (12.4, "12/s"), (1234, "1.2k/s")],
)
def test_rates(value: float, text: str) -> None:
    assert show.rate(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((None, "–"), (0, "0 ms"), (0.0004, "0.4 ms"), (0.0123, "12 ms"), (0.9994, "999 ms")),
        *((0.9996, "1.0 s"), (1.25, "1.2 s"), (45, "45.0 s"), (130, "2m10s")),
        *((-0.25, "-250 ms"), (-1.697, "-1.7 s")),
    ],
)
def test_short_times(value: float | None, text: str) -> None:
    assert show.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.4, "0s"), (59.9, "59s"), (60, "1m00s"), (192, "3m12s"), (7500, "2h05m"), (273600, "3d04h")],
)
def test_long_times(value: float, text: str) -> None:
    assert show.duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "–"), (512, "512 B"), (1023, "1.0 KiB"), (560 << 20, "560 MiB"), (3 << 29, "1.5 GiB")],
)
def test_sizes(value: float, text: str) -> None:
    assert show.size(value) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (0, "    "),
        (0.015, "    "),
        (0.04, "▏   "),
        (0.5, "██  "),
        (0.6, "██▍ "),
        (1, "████"),
        (7, "████"),
    ],
)
def test_bars_are_as_wide_as_they_should_be(ratio: float, text: str) -> None:
    assert show.bar(ratio, 4) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(0, "·"), (0.001, "▁"), (0.5, "▄"), (1, "█"), (2, "█")]
)
def test_levels_show_what_is_more_than_nothing(ratio: float, text: str) -> None:
    assert show.level(ratio) == text


def test_curves_keep_peaks_and_leave_out_what_was_not_measured() -> None:
    assert show.resampled([1, 9, None, None, 2, 3], 3) == [9, None, 3]
    assert show.resampled([1, None], 5) == [1, 1, 1, None, None]
    assert show.resampled([], 3) == []
    assert show.chart([None, 0, 4, 8], 4, 2) == ["   █", " _██"]
    assert show.chart([1, 2], 2, 1, top=4.0) == ["▂▄"]
    assert show.chart([0, 0], 2, 2) == ["  ", "__"]
