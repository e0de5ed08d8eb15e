"""Remembers requests that were running when a process died, and refuses one after two deaths. Pure.

It is not known which of its requests killed a process. Clients are told to retry, so without a
limit one faulty request could kill one process after another.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from dynamo_cli.deaths import FATAL_DEATHS, MEMORY_NS, refusal

MOST_SUSPECTS = 4096
DIGEST_BYTES = 16


@dataclass(slots=True)
class _Suspect:
    deaths: int
    last_ns: int


@dataclass(slots=True)
class Suspects:
    """Requests, by path and body, that were running on a worker or processor when it died."""

    _suspects: OrderedDict[bytes, _Suspect] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._suspects)

    def check(self, path: str, body: bytes, request_id: str, now_ns: int) -> None:
        """Check that a request may run.

        Raises:
            PoisonRequest: at least `FATAL_DEATHS` processes died while it ran.
        """
        if not self._suspects:
            return
        self._forget_old(now_ns)
        suspect = self._suspects.get(_identity(path, body))
        if suspect is not None and suspect.deaths >= FATAL_DEATHS:
            raise refusal(request_id, suspect.deaths)

    def died(self, path: str, body: bytes, now_ns: int, times: int = 1) -> None:
        """Note that processes died while this request ran.

        Args:
            times: number of deaths; more than one if the request was moved in between.
        """
        identity = _identity(path, body)
        suspect = self._suspects.setdefault(identity, _Suspect(0, now_ns))
        suspect.deaths += times
        suspect.last_ns = now_ns
        self._suspects.move_to_end(identity)
        while len(self._suspects) > MOST_SUSPECTS:
            self._suspects.popitem(last=False)

    def survived(self, path: str, body: bytes) -> None:
        """Note that the request was answered, so that it is no longer suspected."""
        if self._suspects:
            self._suspects.pop(_identity(path, body), None)

    def _forget_old(self, now_ns: int) -> None:
        while self._suspects:
            identity, oldest = next(iter(self._suspects.items()))
            if now_ns - oldest.last_ns < MEMORY_NS:
                return
            del self._suspects[identity]


def _identity(path: str, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES, key=path.encode()[:64]).digest()
