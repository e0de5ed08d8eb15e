"""The queries of the Grafana dashboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[2] / "container" / "grafana-dashboard.json"
METRIC = re.compile(r"\b(?:dynamo_llm|vllm)[a-zA-Z0-9_:]+")


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    """The expressions of all panels, with values for the variables of Grafana."""
    for panel in panels():
        for target in panel.get("targets", ()):
            expression = target["expr"].replace("$instance", ".*")
            yield expression.replace("$__rate_interval", "30s").replace("$__range", "30s")


def metrics() -> set[str]:
    """All metrics that are asked for."""
    return {name for expression in expressions() for name in METRIC.findall(expression)}
