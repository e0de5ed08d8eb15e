"""Connects this process to a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Timer

from dynamo_cli.cluster_config import AUTO_ADDRESS
from dynamo_cli.config import LOOPBACK
from dynamo_cli.errors import ResourceError, UsageError

NOT_INSTALLED = "--ray needs the package ray: pip install 'dynamo-llm[ray]'."


PATIENCE_S = 40.0
"""How long a cluster may take to answer, seconds. Ray itself tries for minutes."""


def patience(address: str, give_up: Callable[[str], None]) -> Timer:
    """Start a timer that ends this process unless it is cancelled: Ray's calls have no time limit.

    Args:
        address: address of the cluster, for the reason.
        give_up: called with the reason, before the process ends.
    """

    def end() -> None:
        give_up(f"no Ray cluster answers at {address} within {PATIENCE_S:.0f} s.")
        os._exit(1)

    timer = Timer(PATIENCE_S, end)
    timer.daemon = True
    timer.start()
    return timer


def connect(address: str) -> str:
    """Connect to the cluster at `address`, ``HOST:PORT`` or ``auto``; returns its address.

    Raises:
        UsageError: Ray is not installed.
        ResourceError: no cluster answers, or it refuses the connection.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if _is_loopback(address):
        # Ray would otherwise put another address of this machine in the place of 127.0.0.1.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    try:
        import ray  # noqa: PLC0415
        from ray._private import services  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(NOT_INSTALLED) from error
    try:
        if address == AUTO_ADDRESS:
            address = services.get_ray_address_from_environment(address, None)
            if _is_loopback(address):
                ray._private.ray_constants.ENABLE_RAY_CLUSTER = False
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = str(error).strip().partition("\n")[0]
        raise ResourceError(
            f"no Ray cluster answers at {address}: {why} Start one with ray start --head, and let "
            "this machine join it with ray start --address=HOST:PORT."
        ) from error
    return address


def _is_loopback(address: str) -> bool:
    return address.rpartition(":")[0].strip("[]") in LOOPBACK
