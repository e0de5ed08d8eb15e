"""Memory without a name that the processes of a run share: a sealed memfd."""

from __future__ import annotations

import fcntl
import mmap
import os

from dynamo_cli.host.optional import may_fail


class MemoryFile:
    """Memory that this process makes. Others open it with `map_shared` while this one lives.

    It takes no room until it is written to, and is gone with the last process that has it open.

    Args:
        name: what the system shows for it, in /proc/PID/maps.
        size_bytes: its size, which cannot change.
    """

    def __init__(self, name: str, size_bytes: int) -> None:
        self._fd = os.memfd_create(f"dynamo-llm:{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._fd, size_bytes)
        # An access to a mapping of a file that cannot shrink never faults.
        with may_fail("fcntl(F_ADD_SEALS)", "a broken process could shrink the memory"):
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)

    @property
    def path(self) -> str:
        """The file under which another process of this user can open it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def close(self) -> None:
        """Close it here; mappings of other processes stay valid."""
        os.close(self._fd)


def map_shared(path: str) -> mmap.mmap:
    """Map the memory of another process, to read and to write.

    Raises:
        OSError: that process is gone, or the system refuses.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, 0)
    finally:
        os.close(fd)
