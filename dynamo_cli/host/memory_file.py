"""Memory without a name that the processes of a run share: a sealed memfd."""

from __future__ import annotations

import fcntl
import mmap
import os

from dynamo_cli.host.optional import may_fail


def sealed_memory(name: str, size_bytes: int) -> int:
    """Make memory that no process can shrink or grow; returns its descriptor.

    An access to a mapping of it never faults, whatever another process does. It takes no room until
    it is written to.

    Args:
        name: what the system shows for it, in /proc/PID/maps; it cannot be opened by that.

    Raises:
        OSError: the system lacks memory or descriptors.
    """
    memory = os.memfd_create(f"dynamo-llm:{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, size_bytes)
    except OSError:
        os.close(memory)
        raise
    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    with may_fail("fcntl(F_ADD_SEALS)", "a broken process could shrink shared memory"):
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
    return memory


class MemoryFile:
    """Memory that this process makes. Others open it with `map_shared` while this one lives.

    It is gone with the last process that has it open. Arguments as of `sealed_memory`.
    """

    def __init__(self, name: str, size_bytes: int) -> None:
        self._fd = sealed_memory(name, size_bytes)

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
