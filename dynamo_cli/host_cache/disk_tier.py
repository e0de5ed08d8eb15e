"""Joins the halves of the tier on disk: `Disk` decides what is copied, `DiskFile` copies it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dynamo_cli.config import HostCacheConfig
from dynamo_cli.host import oserrors
from dynamo_cli.host_cache.disk import Disk
from dynamo_cli.host_cache.disk_file import DiskFile
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv.holdings import Holdings

logger = logging.getLogger(__name__)


class DiskTier:
    """The tier on disk.

    Args:
        config: the configuration of the host cache; its `disk` is set.
        memory: the tier in memory.
        reach: the blocks in memory or on disk, as the router is told of them.
        clock: gives nanoseconds; only differences count.
        wake_by: is called with an eventfd; the loop must wake up when it is set, because a copy
            has ended.

    Attributes:
        disk: the blocks on disk.
    """

    def __init__(
        self,
        config: HostCacheConfig,
        memory: HostCache,
        reach: Holdings,
        clock: Callable[[], int],
        wake_by: Callable[[int], None],
    ) -> None:
        assert config.disk is not None
        self._config = config
        self._folder = config.disk.folder
        self._memory = memory
        self._wake_by = wake_by
        self._file: DiskFile | None = None
        self.disk = Disk(memory, config.disk.size_bytes, clock, reach)

    def opened(self) -> None:
        """Make the file if there is none and an engine has said how large blocks are."""
        if self._file is not None or self.disk.off or not self._memory.slots:
            return
        try:
            self._file = DiskFile(self._folder, self._config.path, self._memory.slot_bytes)
        except OSError as error:
            why = oserrors.reason(error)
            self._off(f"no file can be made in {self._folder}: {why}")
            return
        self._wake_by(self._file.wake)
        self.disk.opened()
        if not self._file.direct:
            logger.warning("the disk cache goes through the page cache: direct I/O is not possible")

    def _off(self, reason: str) -> None:
        self.disk.off = reason
        logger.error("the disk cache is not used: %s", reason)

    def take_done(self) -> bool:
        """Note the copies that have ended; returns whether there were any."""
        ended = self._file.take_done() if self._file is not None else []
        used = not self.disk.off
        for done in ended:
            self.disk.done(done)
        if used and self.disk.off:
            self._off(self.disk.off)
        return bool(ended)

    def begin(self) -> None:
        """Begin the copies that `disk` has decided on."""
        if self._file is not None:
            for job in self.disk.jobs():
                self._file.begin(job)

    def close(self) -> None:
        """Begin no more copies."""
        if self._file is not None:
            self._file.close()
