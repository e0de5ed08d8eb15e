"""Reads the GPUs of the engines once a second, in a thread because driver calls can block."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from dynamo_cli.config import Devices
from dynamo_cli.errors import ResourceError
from dynamo_cli.host import vital
from dynamo_cli.watch.gpus import GpuLog, GpuReading, GpuReport

if TYPE_CHECKING:
    from dynamo_cli.host.gpus import GpuMeter

INTERVAL_S = 1.0
LISTEN_S = 0.2
"""Longest wait for an Xid before the thread checks whether it must end."""

CLOSE_S = 0.5
"""How long `close` waits for the thread, which never ends if the driver hangs."""

logger = logging.getLogger(__name__)


class Gpus:
    """Watches GPUs from its creation until `close`.

    Args:
        devices: the GPUs to watch; if there are none, no thread is started.

    Attributes:
        report: the latest report; None without GPUs. Any thread may read it.
    """

    def __init__(self, devices: Devices) -> None:
        self._devices = devices
        self._log = GpuLog()
        self._deaf: set[str] = set()
        self._stopped = threading.Event()
        self.report: GpuReport | None = None
        if devices:
            self.report = GpuReport(time.monotonic_ns())
            self._thread = threading.Thread(target=self._watch, name="gpus", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stopped.set()
        if self._devices:
            self._thread.join(CLOSE_S)

    # -- the thread --------------------------------------------------------------------------

    @vital.callback
    def _watch(self) -> None:
        from dynamo_cli.host.gpus import GpuMeter  # noqa: PLC0415 - loaded with GPUs only

        while not self._stopped.is_set():
            try:
                meter = GpuMeter(self._devices)
            except ResourceError as error:
                self._publish([], error.message)
                self._stopped.wait(INTERVAL_S)
                continue
            try:
                self._follow(meter)
            except ResourceError as error:  # after a restart, GPUs without this fault report again
                self._hears_nothing(error.message)
                self._stopped.wait(INTERVAL_S)
            finally:
                meter.close()

    def _follow(self, meter: GpuMeter) -> None:
        while not self._stopped.is_set():
            began = time.monotonic()
            self._publish(meter.read())
            while not self._stopped.is_set() and time.monotonic() < began + INTERVAL_S:
                self._listen(meter)

    def _listen(self, meter: GpuMeter) -> None:
        errors = meter.xids(LISTEN_S)
        if errors is None:
            self._hears_nothing("the driver does not report them here")
            self._stopped.wait(LISTEN_S)
        for name, xid in errors or ():
            if self._log.xid(name, xid, time.monotonic_ns()):
                logger.error("the driver reports Xid %d of GPU %s", xid, name)

    def _hears_nothing(self, why: str) -> None:
        """Log that no Xids can be received, once for each reason."""
        if why not in self._deaf:
            self._deaf.add(why)
            logger.warning("cannot receive Xids (GPU errors) from the NVIDIA driver: %s", why)

    def _publish(self, readings: list[GpuReading], problem: str = "") -> None:
        self.report = self._log.read(readings, time.monotonic_ns(), problem)
