"""The Grafana dashboard checked without a server."""

from __future__ import annotations

import re

from tests.observe import grafana
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
