"""What was changed through a frontend and must outlive it. Pure."""

from __future__ import annotations

from dataclasses import replace

from dynamo_cli.messages.lifecycle import AdaptersChanged, PlacementChanged
from dynamo_cli.serve_config import ServeConfig


def remembered(config: ServeConfig, change: AdaptersChanged | PlacementChanged) -> ServeConfig:
    """The plan with this change, for processes that are started later."""
    match change:
        case AdaptersChanged(table):
            return replace(config, frontend=replace(config.frontend, adapters=table))
        case PlacementChanged(rule):
            frontend = replace(config.frontend, placement=rule)
            return replace(config, frontend=frontend, placement=rule)
