"""The Grafana dashboard checked without a server."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.observe import grafana, prometheus
from tests.reference.metrics import families

HISTOGRAM = re.compile(r"_(bucket|sum|count)$")

LEFT_OUT = {
    "dynamo_llm_router_over_predicted_requests_total": "tokens predicted and found are shown",
    "dynamo_llm_router_index_entries": "its bytes are shown",
    "dynamo_llm_prefill_queue_depth_tokens": "its jobs are shown",
    "dynamo_llm_prefill_queue_in_flight_tokens": "its jobs are shown",
    "dynamo_llm_prefill_jobs_ended_total": "placements and fallbacks are shown",
    "dynamo_llm_kv_transfers_total": "their bytes are shown",
    "dynamo_llm_kv_transfer_seconds_total": "the time of jobs is shown",
    "dynamo_llm_host_cache_copied_blocks_total": "their bytes are shown",
}
"""Metrics without a panel, and why none is missed."""


def test_every_metric_of_this_program_has_a_panel() -> None:
    own = {one.name for one in families() if one.name.startswith("dynamo_llm_")}
    shown = {HISTOGRAM.sub("", name) for name in grafana.metrics()} | grafana.metrics()
    assert own - shown == LEFT_OUT.keys(), "the others need a panel, or a reason"


def test_panels_have_their_own_place_and_ids() -> None:
    panels = grafana.panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = set()
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in cells, panel["title"]
                cells.add((x, y))


def test_panels_come_in_the_order_of_their_places() -> None:
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in grafana.panels()]
    assert places == sorted(places)


@pytest.mark.skipif(not prometheus.installed(), reason="needs Prometheus (Debian: prometheus)")
def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    """Also those of GPUs, for which no server here has data."""
    rules = [
        {"record": f"panel_{number}", "expr": expression}
        for number, expression in enumerate(grafana.expressions())
    ]
    file = tmp_path / "rules.json"  # JSON is YAML too
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout
