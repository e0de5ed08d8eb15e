"""compose.yaml and the manifests for Kubernetes: they fit the image, the server and each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynamo_cli.cli.app import parse, typed_of
from dynamo_cli.config import DEFAULT_DRAIN_TIMEOUT_S, DEFAULT_PORT
from dynamo_cli.frontend import openapi
from dynamo_cli.frontend.http.admission import OPEN_PATHS

CONTAINER = Path(__file__).parents[2] / "container"
COMPOSE = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
MANIFESTS = {
    one["kind"]: one
    for one in yaml.safe_load_all((CONTAINER / "kubernetes" / "dynamo-llm.yaml").read_text())
}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
(SERVER,) = POD["containers"]


def path_of(probe: str) -> str:
    get = SERVER[probe]["httpGet"]
    assert get["port"] == "http"
    return str(get["path"])


@pytest.mark.parametrize(
    ("probe", "path"),
    [("startupProbe", "/health"), ("readinessProbe", "/health"), ("livenessProbe", "/live")],
)
def test_probes_ask_what_they_mean_and_need_no_key(probe: str, path: str) -> None:
    assert path_of(probe) == path
    assert path in OPEN_PATHS
    assert "get" in openapi.OWN[path]


def test_a_pod_has_time_to_load_and_to_drain() -> None:
    start = SERVER["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 1800
    assert POD["terminationGracePeriodSeconds"] >= DEFAULT_DRAIN_TIMEOUT_S + 15
    assert COMPOSE["services"]["server"]["stop_grace_period"] == "60s"


def test_the_parts_of_the_manifests_fit_each_other() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert {mount["name"] for mount in SERVER["volumeMounts"]} == {
        volume["name"] for volume in POD["volumes"]
    }
    claim = POD["volumes"][0]["persistentVolumeClaim"]["claimName"]
    assert MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"] == claim
    (port,) = SERVER["ports"]
    assert port["containerPort"] == DEFAULT_PORT
    user = next(
        line for line in (CONTAINER / "Dockerfile").read_text().splitlines() if "useradd" in line
    )
    assert f"--uid {POD['securityContext']['runAsUser']} " in user


def words_of(command: list[str]) -> list[str]:
    """A command of compose.yaml with the defaults of its variables."""
    return [word.partition(":-")[2].rstrip("}") if ":-" in word else word for word in command]


@pytest.mark.parametrize(
    "words", [SERVER["args"], words_of(COMPOSE["services"]["server"]["command"])]
)
def test_the_server_takes_its_arguments(words: list[str]) -> None:
    assert typed_of(parse(words)).model == "demo"


def test_compose_hands_keys_on_by_name_only() -> None:
    """Some releases of podman-compose hand `${NAME:-}` on as these very characters, as the key."""
    assert COMPOSE["services"]["server"]["environment"] == ["DYNAMO_LLM_API_KEY", "HF_TOKEN"]
    assert ":-}" not in (CONTAINER / "compose.yaml").read_text()


def test_what_compose_mounts_is_there_and_leads_to_the_server() -> None:
    services: dict[str, Any] = COMPOSE["services"]
    mounts = [mount for one in services.values() for mount in one["volumes"]]
    files = [mount.partition(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(files) == 4
    assert all((CONTAINER / file).is_file() for file in files)
    scrape = yaml.safe_load((CONTAINER / "monitoring" / "prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"server:{DEFAULT_PORT}"]}]
    source = yaml.safe_load((CONTAINER / "monitoring" / "grafana-datasource.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    dashboard = json.loads((CONTAINER / "grafana-dashboard.json").read_text())
    assert dashboard["templating"]["list"][0]["query"] == "prometheus", "it finds the data source"


def test_what_prometheus_measures_is_kept_in_its_volume() -> None:
    """Its command takes the place of the one in the image, which names the folder."""
    prometheus = COMPOSE["services"]["prometheus"]
    (folder,) = [one.partition("=")[2] for one in prometheus["command"] if "tsdb.path=" in one]
    assert f"prometheus:{folder}" in prometheus["volumes"]


def test_only_this_machine_reaches_what_has_no_password() -> None:
    published = [port for one in COMPOSE["services"].values() for port in one.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
