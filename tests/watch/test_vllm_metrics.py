"""The page of metrics has what vLLM's published Grafana dashboards ask for, and it is right."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dynamo_cli.frontend.metrics import exposition
from dynamo_cli.messages.request import EngineReady, Timeline, Usage
from dynamo_cli.messages.telemetry import STEP_TOKENS_BOUNDS, CacheFacts, EngineCounts, WorkerStats
from dynamo_cli.units import MS_NS
from dynamo_cli.watch.engine_counts import EngineTotals
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.request_meter import REASONS, reason_of
from dynamo_cli.watch.state import TreeState
from dynamo_cli.watch.timelines import RequestRecord

DASHBOARDS = Path(__file__).parent / "data" / "vllm_dashboards.txt"


def steps(*counts: int) -> tuple[int, ...]:
    """Counts of steps, filled up with zeros."""
    return (*counts, *(0 for _ in range(len(STEP_TOKENS_BOUNDS) + 1 - len(counts))))


COUNTS = EngineCounts(steps(0, 3, 2), 30, 40, 10, 5, 15, 9, (5, 4))
"""Five steps of 30 tokens; 50 tokens of prompts that were in a cache; five drafts."""


def asked() -> list[tuple[str, set[str]]]:
    """Names of series, and the labels that they must have."""
    lines = [line.split() for line in DASHBOARDS.read_text().splitlines() if line[0] != "#"]
    return [(name, set(labels)) for name, *labels in lines]


def stats(worker: int = 0, counts: EngineCounts = COUNTS) -> WorkerStats:
    return WorkerStats(
        worker, 3, 2, 0.25, 200, 50, 200, 100, 1, 6, 0, num_deferred_reqs=1, counts=counts
    )


def record(worker: int | None = 0, **changed: object) -> RequestRecord:
    """A request whose stages are 100 ms apart; 5 tokens, so 25 ms each after the first."""
    at = [MS_NS * 100 * number for number in range(1, 7)]
    known: dict[str, object] = {
        "usage": Usage(20, 8, 5),
        "status": 200,
        "finish_reason": "length",
        "timeline": Timeline(
            queued_ns=at[1], scheduled_ns=at[2], first_token_ns=at[3], ended_ns=at[4]
        ),
    }
    return RequestRecord(
        "id",
        "/v1/completions",
        "m",
        arrival_ns=at[0],
        ended_ns=at[5],
        worker=worker,
        **(known | changed),
    )  # type: ignore[arg-type]


@dataclass
class Page:
    """A page of metrics, parsed."""

    samples: list[tuple[str, dict[str, str], float]]

    def value(self, name: str, **labels: str) -> float:
        """The sum of all series of this name with these labels."""
        found = [
            value for known, own, value in self.samples if known == name and own | labels == own
        ]
        assert found, (name, labels)
        return sum(found)


def page_of(tree: TreeState, meter: Meter) -> Page:
    text = exposition.render(
        meter, tree.snapshot(0, {}, 0), tree.prefill, None, tree.engine_totals
    ).decode()
    families = text_string_to_metric_families(text)
    return Page(
        [(one.name, dict(one.labels), one.value) for family in families for one in family.samples]
    )


def served() -> tuple[TreeState, Meter]:
    """Two workers that have served three requests."""
    meter = Meter()
    tree = TreeState(meter, ("a model", "alias"), 0)
    settings = CacheFacts(settings={"num_gpu_blocks": "512", "block_size": "16"})
    for worker in (0, 1):
        tree.apply(EngineReady(worker, ["generate"], 4096, 16, 512, 64, settings), 0)
        tree.apply(stats(worker), 0)
        meter.next_token(0.02, 0, worker)
    for worker in (0, 0, 1):
        meter.ended(record(worker))
    return tree, meter


def test_everything_that_the_dashboards_ask_for_is_there() -> None:
    page = page_of(*served())
    assert len(asked()) > 50
    missing = [
        (name, labels)
        for name, labels in asked()
        if not any(known == name and labels <= own.keys() for known, own, _ in page.samples)
    ]
    assert missing == []


def test_no_family_comes_twice() -> None:
    tree, meter = served()
    page = exposition.render(
        meter, tree.snapshot(0, {}, 0), tree.prefill, None, tree.engine_totals
    ).decode()
    names = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert len(names) == len(set(names))


def test_every_series_of_vllm_names_its_worker_and_the_model() -> None:
    page = page_of(*served())
    ours = [own for name, own, _ in page.samples if name.startswith("vllm:")]
    assert {(own["engine"], own["model_name"]) for own in ours} == {
        ("0", "a model"),
        ("1", "a model"),
    }


def test_times_and_lengths_of_requests_are_those_of_their_timelines() -> None:
    page = page_of(*served())
    for name, each_s in (
        ("time_to_first_token", 0.3),
        ("request_queue_time", 0.1),
        ("request_prefill_time", 0.1),
        ("request_decode_time", 0.1),
        ("request_inference_time", 0.2),
        ("e2e_request_latency", 0.5),
        ("request_time_per_output_token", 0.025),
    ):
        assert page.value(f"vllm:{name}_seconds_count") == 3
        assert page.value(f"vllm:{name}_seconds_count", engine="1") == 1
        assert page.value(f"vllm:{name}_seconds_sum") == pytest.approx(3 * each_s)
    assert page.value("vllm:time_to_first_token_seconds_bucket", le="0.25") == 0
    assert page.value("vllm:time_to_first_token_seconds_bucket", le="0.5") == 3
    for name, each in (("prompt", 20), ("generation", 5), ("max_num_generation", 5)):
        assert page.value(f"vllm:request_{name}_tokens_sum") == 3 * each
    assert page.value("vllm:request_prefill_kv_computed_tokens_sum") == 3 * 12
    assert page.value("vllm:request_success_total", finished_reason="length", engine="0") == 2
    assert page.value("vllm:inter_token_latency_seconds_sum") == pytest.approx(0.04)
    assert page.value("dynamo_llm_itl_seconds_sum") == pytest.approx(0.04)
    assert page.value("http_requests_total", status="2xx", handler="/v1/completions") == 3
    assert page.value("http_request_duration_seconds_sum") == pytest.approx(1.5)


def test_counts_of_engines_go_on_over_their_lives() -> None:
    tree, meter = served()
    tree.worker_gone(0)
    assert page_of(tree, meter).value("vllm:iteration_tokens_total_sum", engine="0") == 30
    tree.apply(stats(0, EngineCounts(steps(1), 1, accepted_by_position=(1, 1, 1))), 0)
    page = page_of(tree, meter)
    assert page.value("vllm:iteration_tokens_total_count", engine="0") == 6
    assert page.value("vllm:iteration_tokens_total_sum", engine="0") == 31
    assert page.value("vllm:iteration_tokens_total_bucket", engine="0", le="1.0") == 1
    assert page.value("vllm:iteration_tokens_total_bucket", engine="0", le="8.0") == 4
    by_position = "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    assert [page.value(by_position, engine="0", position=str(one)) for one in range(3)] == [6, 5, 1]


def test_gauges_tell_what_engines_wait_for_where_tokens_came_from_and_who_sleeps() -> None:
    page = page_of(*served())
    waiting = "vllm:num_requests_waiting_by_reason"
    assert page.value(waiting, reason="capacity", engine="0") == 1
    assert page.value(waiting, reason="deferred", engine="0") == 1
    assert page.value("vllm:prompt_tokens_cached_total", engine="0") == 50
    for source, tokens in (("compute", 150), ("cache_hit", 40)):
        name = "vllm:prompt_tokens_by_source_total"
        assert page.value(name, source=f"local_{source}", engine="0") == tokens
    assert page.value("vllm:engine_sleep_state", sleep_state="awake") == 2
    assert page.value("vllm:cache_config_info", num_gpu_blocks="512") == 2


def test_without_speculative_decoding_and_before_any_request_the_page_has_zeros() -> None:
    tree, meter = TreeState(Meter(), ("m",), 0), Meter()
    tree.apply(stats(0, EngineCounts()), 0)
    page = page_of(tree, meter)
    assert page.value("vllm:iteration_tokens_total_count") == 0
    assert page.value("vllm:request_success_total") == 0
    assert not any(name.startswith("vllm:spec_decode") for name, _, _ in page.samples)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({}, "length"),
        ({"finish_reason": "repetition"}, "repetition"),
        ({"finish_reason": "tool_calls"}, "stop"),
        ({"error": "client_closed", "status": 499}, "abort"),
        ({"error": "worker_lost", "status": 503}, "error"),
    ],
)
def test_the_reason_is_one_of_vllms_words(changed: dict[str, object], reason: str) -> None:
    made = record(**changed)
    assert reason_of(made) == reason
    assert reason in REASONS


def test_what_never_reached_a_worker_or_failed_says_nothing_about_answers() -> None:
    meter = Meter()
    meter.by_worker.ended(record(None))
    assert meter.by_worker.workers == {}
    meter.by_worker.ended(record(0, error="worker_lost"))
    worker = meter.by_worker.workers[0]
    assert worker.ended == {"error": 1}
    assert not any(worker.seconds["e2e_request_latency"].counts)


def test_requests_that_wait_for_something_else_are_never_more_than_all_that_wait() -> None:
    """Both counts are taken one after the other."""
    tree, meter = served()
    tree.apply(msgspec.structs.replace(stats(0), num_deferred_reqs=5), 0)
    page = page_of(tree, meter)
    waiting = "vllm:num_requests_waiting_by_reason"
    assert page.value(waiting, engine="0", reason="capacity") == 0
    assert page.value(waiting, engine="0", reason="deferred") == 2
    assert page.value(waiting, engine="1", reason="capacity") == 1


def test_totals_go_on_after_a_restart_and_end_with_the_worker() -> None:
    totals = EngineTotals()
    for _ in range(2):
        totals.ready(EngineReady(0, [], 4096, 16, 512, 64, CacheFacts(settings={"a": "b"})))
        totals.report(stats(0))
        totals.gone(0)
    totals.report(stats(0))
    totals.report(stats(1))
    assert totals.workers == {0, 1}
    assert totals.counters(0)["output_tokens"] == 3 * totals.counters(1)["output_tokens"] > 0
    assert totals.counts(0) == COUNTS + COUNTS + COUNTS
    assert totals.now(0) == stats(0)
    totals.gone(1)
    assert (totals.now(1), totals.deferred(1)) == (None, 0)
    totals.keep({1})
    assert totals.workers == {1}
    assert (totals.settings(0), totals.counts(0)) == ({}, EngineCounts())
    assert set(totals.counters(0).values()) == {0}
    assert totals.counts(1) == COUNTS
