"""Figures of runs, as tables."""

from __future__ import annotations

import csv
import json
import random
from types import SimpleNamespace

import pytest
from rich.console import Console

from dynamo_cli.lab import table
from dynamo_cli.lab.load.bench import Bench, BenchPlan
from dynamo_cli.lab.load.drive import Round
from dynamo_cli.lab.load.pace import Bounds, Closed
from dynamo_cli.lab.load.workload import WorkloadShape
from dynamo_cli.lab.report import Gaps, Outcome, Ratio, Slo, quantile, ratio, summarize

RUN = [
    Outcome(0.0, 0.1, 1.1, prompt_tokens=100, cached_tokens=0, output_tokens=11),
    Outcome(1.0, 0.2, 0.7, prompt_tokens=100, cached_tokens=50, output_tokens=11),
    Outcome(2.0, 0.3, 2.0, prompt_tokens=200, cached_tokens=150, output_tokens=1),
    Outcome(3.0, error="HTTP 429"),
    Outcome(3.5, error="HTTP 429"),
]


def gaps(*values_s: float) -> Gaps:
    found = Gaps()
    for value in values_s:
        found.add(value)
    return found


def test_a_run_is_summed_up() -> None:
    summary = summarize(RUN, gaps(0.01, 0.02), more={"preemptions": 3})
    assert summary.requests == 3
    assert summary.errors == {"HTTP 429": 2}
    assert summary.duration_s == pytest.approx(4.0)
    assert summary.hit_ratio == 0.5
    assert summary.output_tokens_per_s == pytest.approx(23 / 4)
    assert summary.requests_per_s == pytest.approx(3 / 4)
    assert summary.ttft_ms is not None
    assert summary.ttft_ms.mean == pytest.approx(200)
    assert (summary.ttft_ms.p50, summary.ttft_ms.p99) == pytest.approx((200, 300))
    assert summary.itl_p99_ms == pytest.approx(20, rel=0.006)
    assert summary.itl_ms is not None
    assert summary.itl_ms.mean == pytest.approx(15)
    assert summary.itl_ms.p50 == pytest.approx(10, rel=0.006)
    assert summary.tpot_ms is not None, "of those with several tokens"
    assert (summary.tpot_ms.mean, summary.tpot_ms.p95) == pytest.approx((75, 100))
    assert summary.goodput_per_s is None
    assert summary.more == {"preemptions": 3}


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(ttft_s=0.2), 2),
        (Slo(itl_s=0.05), 1),  # the second: 0.5 s over ten gaps
        (Slo(itl_s=0.1), 2),
        (Slo(ttft_s=0.1, itl_s=0.1), 1),
        (Slo(ttft_s=9, itl_s=9), 3),
    ],
)
def test_goodput_counts_what_keeps_all_objectives(slo: Slo, good: int) -> None:
    summary = summarize(RUN, Gaps(), slo)
    assert summary.goodput_per_s == pytest.approx(good / 4)
    assert summary.goodput_ratio == pytest.approx(good / 5)


def test_a_run_without_success_says_what_it_can() -> None:
    summary = summarize([Outcome(0.0, error="timeout")], Gaps(), Slo(1.0))
    assert summary.errors == {"timeout": 1}
    assert (summary.ttft_ms, summary.hit_ratio, summary.itl_p99_ms) == (None, None, None)
    assert (summary.output_tokens_per_s, summary.goodput_ratio) == (0, 0)
    assert summarize([], Gaps()).requests == 0


def test_the_hit_rate_is_unknown_when_the_server_does_not_say() -> None:
    silent = Outcome(0.0, 0.1, 0.2, prompt_tokens=10, output_tokens=1)
    assert summarize([silent], Gaps()).hit_ratio is None
    assert summarize([silent, RUN[1]], Gaps()).hit_ratio == 0.5


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(1, 0.5, 1), (2, 0.5, 1), (100, 0.99, 99), (101, 0.99, 100), (10, 1.0, 10), (10, 0.0, 1)],
)
def test_quantiles_are_values_that_were_seen(count: int, share: float, expected: int) -> None:
    assert quantile(range(1, count + 1), share) == expected


def test_gaps_keep_quantiles_within_half_a_percent() -> None:
    dice = random.Random(1)
    values = sorted(dice.lognormvariate(-4, 1) for _ in range(5000))
    found = gaps(*values[:2000])
    found.merge(gaps(*values[2000:]))
    for share in (0.01, 0.5, 0.9, 0.99, 1.0):
        assert found.quantile_s(share) == pytest.approx(quantile(values, share), rel=0.0051)
    many = Gaps()
    many.add(0.5, count=98)
    many.add(0.0, count=2)
    assert many.quantile_s(0.03) == pytest.approx(0.5, rel=0.006)
    assert Gaps().quantile_s(0.5) is None


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(1.0, 2.0), (2.0, 2.0), (4.0, 2.0)], Ratio(1.0, 0.5, 2.0)),
        ([(0.0, 2.0), (1.0, 1.0)], None),
        ([(None, 1.0)], None),
        ([], None),
    ],
)
def test_ratios_are_taken_within_rounds(
    pairs: list[tuple[float | None, float | None]], expected: Ratio | None
) -> None:
    assert ratio(pairs) == expected


def test_tables_json_and_csv_tell_the_same() -> None:
    one, two = summarize(RUN, gaps(0.01)), summarize(RUN[:2], gaps(0.02), Slo(0.1))
    columns = {"kv": one, "random": two}
    ratios = table.compare([one], [two])
    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        console.print(table.table(columns, "half speed", ratios))
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    row = next(line for line in text.splitlines() if "hit rate, %" in line)
    assert row.split() == ["hit", "rate,", "%", "50", "25", "0.50", "0.50", "to", "0.50"]
    assert "goodput, %" in text

    data = json.loads(table.as_json(columns, slo={"ttft_ms": 100}))
    assert data["runs"]["kv"]["errors"] == {"HTTP 429": 2}
    assert data["runs"]["random"]["ttft_ms"]["p99"] == pytest.approx(200)
    assert data["slo"] == {"ttft_ms": 100}

    rows = list(csv.DictReader(table.as_csv(columns).splitlines()))
    assert [row["name"] for row in rows] == ["kv", "random"]
    assert float(rows[0]["TTFT mean, ms"]) == pytest.approx(200)
    assert rows[0]["goodput, %"] == ""


def test_what_nobody_has_is_no_row() -> None:
    names = [figure.name for figure in table.figures([summarize(RUN, Gaps())])]
    assert "goodput, %" not in names
    assert "hit rate, %" in names


def test_figures_of_a_measurement_that_runs_are_of_its_last_round() -> None:
    measured = Bench(
        BenchPlan(WorkloadShape(1, 1, 1, (1, 1), (1, 1), (1, 1)), Closed(1), Bounds(9)), {}
    )
    assert measured.live is None
    before, now = Round(Bounds(9), began_s=0.0), Round(Bounds(9))
    before.outcomes.append(Outcome(0.0, 9.0))
    now.began_s -= 2.0
    measured.drivers["x"] = SimpleNamespace(rounds=[before, now])  # type: ignore[assignment]
    assert measured.live is None, "nothing of it has succeeded yet"
    now.outcomes += [
        Outcome(0.0, 0.1),
        Outcome(0.0, 0.3),
        Outcome(0.0, 0.2),
        Outcome(0.0, error="x"),
    ]
    now.tokens = 40
    live = measured.live
    assert live is not None
    assert live.ttft_ms == pytest.approx(200)
    assert live.output_tokens_per_s == pytest.approx(20, rel=0.1)
    assert live.requests_per_s == pytest.approx(2, rel=0.1)
