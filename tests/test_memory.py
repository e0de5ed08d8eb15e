"""How much memory there is: that of a machine, and what the limits of control groups leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_cli.host.memory import Memory, read_memory
from dynamo_cli.units import GIB, KIB


def machine(root: Path, group: str = "0::/\n", **groups: dict[str, object]) -> Memory:
    """What is read from a machine of 32 GiB, 20 of them available, with these control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(
        f"MemTotal: {32 * GIB // KIB} kB\nMemFree: 1 kB\nMemAvailable: {20 * GIB // KIB} kB\n"
    )
    (root / "proc/self/cgroup").write_text(group)
    for path, files in groups.items():
        folder = root / "sys/fs/cgroup" / path.replace("top", "").strip("_").replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in files.items():
            (folder / f"memory.{name}").write_text(f"{value}\n")
    return read_memory(root)


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert machine(tmp_path) == (32 * GIB, 20 * GIB)


def test_a_container_has_what_its_limit_leaves_and_what_files_give_back(tmp_path: Path) -> None:
    stat = f"anon 5\ninactive_file {2 * GIB}"
    limited = {"max": 8 * GIB, "current": 5 * GIB, "stat": stat}
    assert machine(tmp_path, top=limited) == (8 * GIB, 5 * GIB)


def test_a_group_without_a_limit_is_no_limit(tmp_path: Path) -> None:
    assert machine(tmp_path, top={"max": "max", "current": GIB}) == (32 * GIB, 20 * GIB)


def test_the_limit_of_a_service_counts_and_those_of_the_slices_above_it(tmp_path: Path) -> None:
    found = machine(
        tmp_path,
        "1:name=systemd:/x\n0::/slice/llm.service\n",
        slice={"max": 6 * GIB, "current": 5 * GIB},
        slice__llm_service={"max": 1 * GIB, "current": GIB},  # another one
    )
    assert found == (6 * GIB, GIB)


VERSION_1 = "9:name=systemd:/\n4:hugetlb,memory:/docker/abc\n0::/\n"
UNLIMITED = 9223372036854771712


@pytest.mark.parametrize("place", ["memory", "memory__docker__abc"])
def test_limits_of_version_1_of_control_groups_count(tmp_path: Path, place: str) -> None:
    """A container sees its group at the top, a service where the kernel says."""
    stat = f"inactive_file 1\ntotal_inactive_file {2 * GIB}"
    limited = {"limit_in_bytes": 8 * GIB, "usage_in_bytes": 5 * GIB, "stat": stat}
    assert machine(tmp_path, VERSION_1, **{place: limited}) == (8 * GIB, 5 * GIB)


def test_a_group_of_version_1_without_a_limit_is_no_limit(tmp_path: Path) -> None:
    group = {"limit_in_bytes": UNLIMITED, "usage_in_bytes": GIB}
    assert machine(tmp_path, VERSION_1, memory=group) == (32 * GIB, 20 * GIB)


def test_a_group_that_uses_more_than_its_limit_leaves_nothing(tmp_path: Path) -> None:
    assert machine(tmp_path, top={"max": GIB, "current": 2 * GIB}) == (GIB, 0)


def test_this_machine_has_memory() -> None:
    found = read_memory()
    assert 0 < found.available_bytes <= found.total_bytes
