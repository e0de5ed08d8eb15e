"""Routing rules of other systems, from what they publish, to compare with. Pure."""

from __future__ import annotations

from dynamo_cli.replay.routers import Factory

PEERS: dict[str, Factory] = {}
"""By the name that ``--policy`` takes, beside what is served (`routers.SERVED`)."""
