"""Engines that share a GPU load one after the other; others do not wait."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dynamo_cli.config import Device, Devices
from dynamo_cli.engines.gpu_lock import alone_on

PATIENCE_S = 20.0
FORK = multiprocessing.get_context("fork")


def on(*numbers: int) -> Devices:
    return tuple(Device(str(number), f"GPU-{number}", f"bus-{number}") for number in numbers)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for number in range(3):
        (tmp_path / f"bus-{number}").mkdir()
    return tmp_path


class Loader:
    """A process that holds the locks of GPUs; it says when it has them, and ends on demand."""

    def __init__(self, devices: Devices, folders: Path) -> None:
        self.pipe, other = FORK.Pipe()
        self.process = FORK.Process(target=_load, args=(devices, folders, other), daemon=True)
        self.process.start()
        other.close()

    def began(self, within_s: float = PATIENCE_S) -> bool:
        return self.pipe.poll(within_s) and self.pipe.recv() == "began"

    def end(self) -> None:
        self.pipe.send("end")
        self.process.join(PATIENCE_S)


def _load(devices: Devices, folders: Path, pipe: Connection) -> None:
    with alone_on(devices, folders):
        pipe.send("began")
        pipe.recv()


def test_one_waits_for_another_on_the_same_gpu(folders: Path) -> None:
    first = Loader(on(0, 1), folders)
    assert first.began()
    second, elsewhere = Loader(on(1, 0), folders), Loader(on(2), folders)
    assert elsewhere.began()
    assert not second.began(0.2)
    first.end()
    assert second.began()
    second.end()
    elsewhere.end()


def test_a_lock_ends_with_its_process(folders: Path) -> None:
    first = Loader(on(0), folders)
    assert first.began()
    second = Loader(on(0), folders)
    assert first.process.pid is not None
    os.kill(first.process.pid, signal.SIGKILL)
    assert second.began()
    second.end()
    assert [path.name for path in sorted(folders.rglob("*"))] == ["bus-0", "bus-1", "bus-2"]


def test_two_ranks_on_one_gpu_do_not_wait_for_each_other(folders: Path) -> None:
    only = Loader(on(0) + on(0), folders)
    assert only.began()
    only.end()


def test_where_there_is_no_lock_it_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with alone_on(on(0), tmp_path):
        assert "cannot be locked" in caplog.text
    with alone_on((), tmp_path):
        assert caplog.text.count("cannot be locked") == 1
