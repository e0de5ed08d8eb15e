"""How many cores there are: those of a machine, and what the limits of control groups leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_cli.host import cores


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores_of_this_process", lambda: set(range(16)))


def count(root: Path, listed: str, files: dict[str, str]) -> int:
    """How many are counted with these control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(listed)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return cores.count_cores(root)


def test_without_control_groups_all_count(tmp_path: Path) -> None:
    assert cores.count_cores(tmp_path) == 16


@pytest.mark.parametrize(
    ("limit", "counted"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("9900000 100000", 16),
        ("", 16),
    ],
)
def test_a_container_has_the_whole_cores_of_its_share(
    tmp_path: Path, limit: str, counted: int
) -> None:
    assert count(tmp_path, "0::/\n", {"cpu.max": limit}) == counted


def test_the_least_of_all_groups_above_counts(tmp_path: Path) -> None:
    above = {"a/cpu.max": "200000 100000", "a/b/cpu.max": "300000 100000"}
    assert count(tmp_path, "0::/a/b\n", above) == 2


@pytest.mark.parametrize(("quota", "counted"), [("-1", 16), ("300000", 3)])
def test_version_1_has_two_files(tmp_path: Path, quota: str, counted: int) -> None:
    files = {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": "100000"}
    assert count(tmp_path, "3:cpu,cpuacct:/docker/abc\n0::/\n", files) == counted
