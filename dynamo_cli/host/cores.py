"""How many cores this process and its children may keep busy."""

from __future__ import annotations

from pathlib import Path

from dynamo_cli.host.control_groups import Group, groups_of_this_process, text_of
from dynamo_cli.host.optional import cores_of_this_process


def count_cores(root: Path = Path("/")) -> int:
    """The cores that this process may run on, or those that its share of CPU time is worth.

    A container with ``--cpus 4``, a pod with a limit or a service with ``CPUQuota=`` has all cores.
    With a thread on each of them, an engine would use its share up at once and then stand still for
    the rest of each period.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    count = len(cores_of_this_process())
    for group in groups_of_this_process("cpu", root):
        count = min(count, _cores_of(group) or count)
    return count


def _cores_of(group: Group) -> int | None:
    """Whole cores, at least one; None without a limit."""
    if group.version == 1:
        files = (group.folder / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
        words = [text_of(file) for file in files]
    else:
        words = text_of(group.folder / "cpu.max").split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        return None  # "max" or -1 means that there is no limit
    quota_us, period_us = map(int, words)
    return max(1, quota_us // period_us)
