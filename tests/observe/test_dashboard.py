"""The Grafana dashboard checked against a real server and a real Prometheus."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.observe import prometheus
from tests.observe.grafana import METRIC, expressions, metrics
from tests.observe.prometheus import Prometheus
from tests.support.requests import Stream, complete, post
from tests.support.server import Server, wait_until
from tests.watch.test_vllm_metrics import asked

pytestmark = pytest.mark.engine

ELSEWHERE = (
    *("dynamo_llm_gpu_", "dynamo_llm_disk_cache_"),
    *("dynamo_llm_node_", "dynamo_llm_relay_"),
)
"""Metrics that exist only with GPUs, a disk or nodes; a test without a server has them."""

OWN_COLON = re.compile(
    r"vllm:\S+ metric names should not contain ':'"
    r'|vllm:iteration_tokens_total non-counter metrics should not have "_total" suffix'
)
"""Of names that vLLM has given."""

NOTHING_HAPPENED = (
    *("dynamo_llm_aborts_total", "dynamo_llm_process_restarts_total"),
    *("dynamo_llm_prefill_fallbacks_total", "dynamo_llm_kv_transfer_failures_total"),
    *("dynamo_llm_prefill_jobs_refused_total", "dynamo_llm_unrouted_requests_total"),
    *("dynamo_llm_host_cache_dropped_blocks_total", "dynamo_llm_prefill_jobs_returned_total"),
    *("dynamo_llm_router_resyncs_total", "dynamo_llm_router_released_total"),
    *("dynamo_llm_unrecorded_requests_total", "dynamo_llm_alarm"),
)
"""Metrics without data as long as nothing fails."""

needs_prometheus = pytest.mark.skipif(
    not prometheus.installed(), reason="needs Prometheus (Debian: apt-get install prometheus)"
)


@pytest.fixture(scope="module")
def page(server: Server) -> str:
    """`/metrics` after requests of several kinds."""
    far = " ".join(f"far away {number}" for number in range(60))
    body = {"model": "tiny", "max_tokens": 5, "ignore_eos": True}
    post(server, "/v1/completions", body | {"prompt": far})
    post(server, "/v1/completions", body | {"prompt": "a", "model": "other"})
    for _ in range(2):
        complete(server, 5)
    text: str = server.get("/metrics")[1]
    return text


def test_every_metric_of_the_dashboard_is_exported(page: str) -> None:
    exported = set()
    for family in text_string_to_metric_families(page):
        exported |= {sample.name for sample in family.samples}
        exported |= {family.name, f"{family.name}_total"}  # of counters without samples yet
    used = metrics()
    assert len(used) > 30
    assert not {name for name in used - exported if not name.startswith(ELSEWHERE)}


@needs_prometheus
def test_a_real_prometheus_evaluates_every_panel(page: str, server: Server) -> None:
    with Prometheus(server.port) as scraping:
        scraped = 'count_over_time(dynamo_llm_serving{instance=~".*"}[1m])'
        wait_until(lambda: int(scraping.query(scraped)[0]["value"][1]) >= 2, 15, "two scrapes")
        post(server, "/v1/completions", {"model": "other", "prompt": "a"})
        for _ in range(3):
            with Stream(server, 5) as stream:
                stream.rest()
        tokens = "increase(dynamo_llm_ttft_seconds_count[1m])"
        wait_until(lambda: float(scraping.query(tokens)[0]["value"][1]) > 0, 15, "traffic is seen")
        here = [one for one in expressions() if not any(name in one for name in ELSEWHERE)]
        empty = [one for one in here if not scraping.query(one)]
        unexpected = [one for one in empty if not set(METRIC.findall(one)) & set(NOTHING_HAPPENED)]
        assert not unexpected


def forms(name: str, labels: set[str]) -> Iterator[str]:
    """The forms of query in which vLLM's dashboards ask for a series."""
    one_model = ', model_name=~"tiny"' if "model_name" in labels else ""
    chosen = f'{{job=~".+", instance=~".+"{one_model}}}'
    by = ", ".join(sorted(labels - {"model_name"})) or "job"
    if name.endswith("_bucket"):
        yield f"histogram_quantile(0.95, sum by (le) (rate({name}{chosen}[30s])))"
    elif name.endswith("_sum"):
        count = f"{name.removesuffix('_sum')}_count"
        yield f"sum(rate({name}{chosen}[30s])) / sum(rate({count}{chosen}[30s]))"
    elif name.endswith(("_total", "_count")):
        yield f"sum by ({by}) (rate({name}{chosen}[30s]))"
    else:
        yield f"sum by ({by}) ({name}{chosen})"
        yield f"count({name}{chosen})"


@needs_prometheus
def test_a_real_prometheus_has_an_answer_to_what_vllms_dashboards_ask_for(server: Server) -> None:
    queries = [
        query
        for name, labels in asked()
        for query in forms(name, labels)
        if "spec_decode" not in name  # of engines that decode speculatively
    ]
    assert len(queries) > 50
    with Prometheus(server.port) as scraping:

        def unanswered() -> list[str]:
            with Stream(server, 5) as stream:
                stream.rest()
            found = {query: scraping.query(query) for query in queries}
            return [
                query
                for query, series in found.items()
                if not series or any(one["value"][1] == "NaN" for one in series)
            ]

        wait_until(lambda: not unanswered(), 30, "each query has an answer that is a number")


@needs_prometheus
def test_promtool_finds_nothing_but_names_that_are_not_ours(page: str) -> None:
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=page, text=True, capture_output=True, check=False
    )
    complaints = found.stderr.splitlines()
    assert complaints, "it has read the page"
    assert not [line for line in complaints if not OWN_COLON.fullmatch(line)]
