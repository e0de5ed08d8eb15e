"""A real Prometheus that scrapes one server."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.server import free_port, wait_until

CONFIG = """\
global:
  scrape_interval: 1s
scrape_configs:
  - job_name: dynamo-llm
    static_configs:
      - targets: ["127.0.0.1:{port}"]
"""


def installed() -> bool:
    return shutil.which("prometheus") is not None and shutil.which("promtool") is not None


class Prometheus:
    """A running Prometheus: ``with Prometheus(port) as prometheus``.

    Args:
        port: port of the server that it scrapes.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._port = free_port()

    def __enter__(self) -> Prometheus:
        self._folder = tempfile.TemporaryDirectory(prefix="dynamo-prometheus-")
        config = Path(self._folder.name, "prometheus.yml")
        config.write_text(CONFIG.format(port=self._target))
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self._folder.name}/data",
                f"--web.listen-address=127.0.0.1:{self._port}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(self._answers, 30, "Prometheus answers")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._folder.cleanup()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The current result of an expression; fails if Prometheus rejects it."""
        address = "http://127.0.0.1:%d/api/v1/query?%s"
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(address % (self._port, query), timeout=10) as answer:
                content = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{expression}\n{error.read().decode()}") from error
        assert content["status"] == "success", content
        found: list[dict[str, Any]] = content["data"]["result"]
        return found

    def _answers(self) -> bool:
        try:
            return bool(self.query("up"))
        except (urllib.error.URLError, ConnectionError, AssertionError):
            return False
