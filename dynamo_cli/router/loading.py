"""Estimates what a worker can load of a prompt from the host cache, and how long that takes. Pure.

Engines report how many blocks they have loaded and in which time (`HostCopies`). Before the first
report, loading a token is assumed to take a tenth of the time to compute it. Blocks that are only
on disk must be read into memory first; the host cache reports how long that takes (`DiskReads`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from dynamo_cli.messages.host_cache import DiskReads, HostCopies, Tier, holder
from dynamo_cli.router.time_estimator import Prices

FIRST_GUESS = 0.1
"""Time to load a token relative to the time to compute it, as long as it was not measured."""

GUESS_TOKENS = 1000.0
"""The first guess counts as a measurement of this many tokens."""

FORGET = 0.95
"""Factor by which each report with new copies reduces the weight of all older reports, so that
about the last twenty count."""


class InHost(NamedTuple):
    """Numbers of leading blocks of a prompt that a host cache has.

    Attributes:
        memory: leading blocks in memory.
        reach: leading blocks in memory or on disk.
    """

    memory: int = 0
    reach: int = 0

    @property
    def disk(self) -> int:
        """Number of these blocks that must be read from the disk."""
        return self.reach - self.memory


NOTHING = InHost()


@dataclass(slots=True)
class _Measured:
    """Sums over the recent loads: tokens, and the time that they took in seconds."""

    tokens: float = 0.0
    seconds: float = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        self.tokens = FORGET * self.tokens + tokens
        self.seconds = FORGET * self.seconds + seconds


@dataclass(slots=True)
class Loading:
    """What workers can load from the host caches of their machines, and how fast.

    A worker that has not loaded anything is taken to be as fast as the mean of the others.
    """

    _reports: dict[int, HostCopies] = field(default_factory=dict)
    _measured: defaultdict[int, _Measured] = field(default_factory=lambda: defaultdict(_Measured))
    _everybody: _Measured = field(default_factory=_Measured)
    _machines: dict[int, int] = field(default_factory=dict)
    _disk_block_s: dict[int, float] = field(default_factory=dict)  # by machine

    def worker_up(self, worker: int, machine: int) -> None:
        """Note on which machine a worker runs."""
        self._machines[worker] = machine

    def disk_read(self, report: DiskReads) -> None:
        """Note how long a host cache takes to read a block from its disk."""
        self._disk_block_s[report.machine] = report.block_s

    def cache_down(self, machine: int) -> None:
        """Forget the disk speed of a host cache whose process has ended."""
        self._disk_block_s.pop(machine, None)

    def loadable(
        self, worker: int, held: dict[int, int], block_size: int, prices: Prices
    ) -> InHost:
        """What a worker can load of a prompt from the host cache of its machine.

        That is nothing if the host cache has refused the worker. Blocks on disk do not count if
        reading them takes longer than computing them.

        Args:
            worker: index of the worker.
            held: number of leading blocks that each host cache holds, by `holder`.
            block_size: tokens per block.
            prices: current estimates of times.
        """
        report = self._reports.get(worker)
        if not held or (report is not None and report.refused):
            return NOTHING
        machine = self._machines.get(worker, 0)
        memory = held.get(holder(machine, Tier.MEMORY), 0)
        if self._disk_block_s.get(machine, 0.0) >= block_size * prices.token_s:
            return InHost(memory, memory)
        return InHost(memory, max(memory, held.get(holder(machine, Tier.REACH), 0)))

    def load_s(
        self, worker: int, found: InHost, expected: int, block_size: int, prices: Prices
    ) -> float:
        """Time that a worker needs to load the blocks that will not be in its own cache, seconds.

        Args:
            worker: index of the worker.
            found: what the host cache has of the prompt.
            expected: leading blocks that will be in the worker's own cache.
            block_size: tokens per block.
            prices: current estimates of times.
        """
        blocks = max(found.reach - expected, 0)
        read = min(blocks, found.disk)
        disk_block_s = self._disk_block_s.get(self._machines.get(worker, 0), 0.0)
        return blocks * block_size * self.token_s(worker, prices) + read * disk_block_s

    def copied(self, report: HostCopies) -> None:
        """Take a worker's report of its totals; reports of prefill workers are ignored.

        The totals of an engine that was started again begin at 0. So if they are smaller than the
        last ones, all of them are new.
        """
        if report.prefill:
            return
        last = self._reports.get(report.worker)
        self._reports[report.worker] = report
        blocks, seconds = report.loaded_blocks, report.load_s
        if last is not None and last.loaded_blocks <= blocks:
            blocks, seconds = blocks - last.loaded_blocks, seconds - last.load_s
        if blocks:
            for sums in (self._measured[report.worker], self._everybody):
                sums.add(blocks * report.block_tokens, max(seconds, 0.0))

    def worker_down(self, worker: int) -> None:
        """Forget a worker whose process ended."""
        self._machines.pop(worker, None)
        self._reports.pop(worker, None)
        self._measured.pop(worker, None)

    def token_s(self, worker: int, prices: Prices) -> float:
        """Return the time in which this worker loads the KV of one token, seconds."""
        known = self._measured.get(worker, self._everybody)
        guessed_s = GUESS_TOKENS * FIRST_GUESS * prices.token_s
        return (guessed_s + known.seconds) / (GUESS_TOKENS + known.tokens)
