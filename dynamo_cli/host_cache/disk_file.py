"""Copies blocks between the memory and a file on disk, with a few threads.

The file has no name, so the system removes it when this process ends, however that happens. So no
later process can find incomplete blocks, or blocks of another model.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

from xxhash import xxh3_64_intdigest

from dynamo_cli.host import oserrors, vital
from dynamo_cli.host.memory_file import map_shared
from dynamo_cli.host.unnamed_file import open_best
from dynamo_cli.host_cache.disk import CORRUPT, DISK_FULL, READ_FAILED, WRITE_FAILED, DiskJob, Done

READERS, WRITERS = 4, 2
"""Threads of each kind. A disk gets faster with several requests at the same time."""

SECTOR_BYTES = 4096
"""Direct reads and writes need blocks of a multiple of this size."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

logger = logging.getLogger(__name__)


class DiskFile:
    """The file, and the threads that read and write it.

    Args:
        folder: where the file is.
        memory: path of the memory of the host cache; see `HostCacheConfig`.
        slot_bytes: size of a block.

    Attributes:
        wake: an eventfd that is set when a copy has ended.
        direct: whether copies bypass the page cache (direct I/O).

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, folder: str, memory: str, slot_bytes: int) -> None:
        self._file, self.direct = open_best(folder, direct=not slot_bytes % SECTOR_BYTES)
        self._memory = memoryview(map_shared(memory))
        self._slot_bytes = slot_bytes
        self._done: deque[Done] = deque()
        self._told: set[str] = set()
        self.wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._readers = ThreadPoolExecutor(READERS, "disk read")
        self._writers = ThreadPoolExecutor(WRITERS, "disk write")

    def begin(self, job: DiskJob) -> None:
        """Let a thread do a copy; `take_done` returns its end."""
        (self._writers if job.write else self._readers).submit(self._run, job)

    def take_done(self) -> list[Done]:
        """The copies that have ended since the last call."""
        return [self._done.popleft() for _ in range(len(self._done))]

    def close(self, *, wait: bool = False) -> None:
        """Begin no more copies.

        Args:
            wait: whether to wait until the copies that have begun have ended.
        """
        for threads in (self._readers, self._writers):
            threads.shutdown(wait=wait, cancel_futures=True)

    @vital.callback
    def _run(self, job: DiskJob) -> None:
        try:
            done = self._write(job) if job.write else self._read(job)
        except OSError as error:
            done = Done(job, self._failure(job, error))
        self._done.append(done)
        os.eventfd_write(self.wake, 1)

    def _slot(self, job: DiskJob) -> memoryview:
        return self._memory[job.slot * self._slot_bytes : (job.slot + 1) * self._slot_bytes]

    def _write(self, job: DiskJob) -> Done:
        block, offset = self._slot(job), job.place * self._slot_bytes
        checksum = xxh3_64_intdigest(block)
        while block:
            written = os.pwrite(self._file, block, offset)
            block, offset = block[written:], offset + written
        return Done(job, checksum=checksum)

    def _read(self, job: DiskJob) -> Done:
        rest, offset = self._slot(job), job.place * self._slot_bytes
        while rest and (read := os.preadv(self._file, [rest], offset)):
            rest, offset = rest[read:], offset + read
        if rest or xxh3_64_intdigest(self._slot(job)) != job.checksum:
            self._tell(CORRUPT, "a block on disk is corrupt; it is computed again, check the disk")
            return Done(job, CORRUPT)
        return Done(job)

    def _failure(self, job: DiskJob, error: OSError) -> str:
        """The reason for an error of the system; the first error with each reason is logged."""
        if job.write and error.errno in NO_ROOM:
            reason = DISK_FULL
        else:
            reason = WRITE_FAILED if job.write else READ_FAILED
        self._tell(reason, f"the disk of --disk-cache: {oserrors.reason(error)}")
        return reason

    def _tell(self, reason: str, text: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            logger.warning("%s (only counted from now on, as %s)", text, reason)
