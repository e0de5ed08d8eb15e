import multiprocessing
import os
import time
from pathlib import Path

import pytest

from dynamo_cli.models.folder import build_once, models_root


def test_the_cache_is_where_xdg_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_root() == tmp_path / "dynamo-llm" / "models"
    for unusable in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", unusable)
        assert models_root() == Path.home() / ".cache" / "dynamo-llm" / "models"


def test_the_second_call_builds_nothing():
    def build(folder: Path, scratch: Path) -> None:
        (folder / "made").touch()
        (scratch / "rubbish").touch()

    folder = build_once("m", build)
    assert [path.name for path in folder.iterdir()] == ["made"]
    assert build_once("m", lambda *_: pytest.fail("built again")) == folder


def test_a_build_that_fails_leaves_nothing():
    def build(folder: Path, _scratch: Path) -> None:
        (folder / "half").touch()
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        build_once("m", build)
    assert [path.name for path in models_root().iterdir()] == ["m.lock"]


def test_what_a_killed_build_left_is_thrown_away():
    leftover = models_root() / "m.work" / "result"
    leftover.mkdir(parents=True)
    (leftover / "half").touch()
    folder = build_once("m", lambda folder, _: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]


def _build_slowly(record: Path) -> None:
    def build(folder: Path, _scratch: Path) -> None:
        with record.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)  # the others come while it builds
        (folder / "made").touch()

    assert (build_once("m", build) / "made").exists()


def test_of_several_processes_one_builds_and_the_others_wait(tmp_path):
    context = multiprocessing.get_context("spawn")
    record = tmp_path / "builders"
    builders = [context.Process(target=_build_slowly, args=(record,)) for _ in range(4)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(30)
    assert [builder.exitcode for builder in builders] == [0] * 4
    assert len(record.read_text().split()) == 1
