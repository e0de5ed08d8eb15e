"""For all tests."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

# What an example takes says more of the machine than of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

gc.disable()  # until all tests are collected: nothing of what that makes is garbage

HERE = Path(__file__).parent
LONGEST = (
    *("disagg/test_real_engines.py", "kv_routing/test_real_engines.py", "tree/test_end.py"),
    *("host_cache/test_servers.py", "fuzz/test_fuzz.py", "dashboard/test_terminal.py"),
    *("api/test_demo.py", "places/test_refusals.py", "tree/test_deaths.py"),
    *("container/test_first_process.py", "supervisor/test_zygote.py", "load/test_real_engine.py"),
    *("tree/test_ranks.py", "cli/test_caches.py", "dashboard/test_pictures.py"),
    *("processor/test_stalls.py", "places/test_log.py", "ipc/test_kills.py"),
    *("dashboard/test_keys.py", "docs/test_commands.py", "kv/test_engine_events.py"),
    *("processor/test_resumes.py", "api/test_other_servers.py", "mock/test_server.py"),
)
"""Files that take longest, which begin first: the last one to end shall not run alone.

`make test` hands out whole files in this order (``--no-loadscope-reorder``), and files of
`TOGETHER` as one. For those that are worth a place here see ``--durations=100``.
"""

TOGETHER = ("api", "models_api", "observe")
"""Folders whose files share a server; those of `LONGEST` start other ones."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    place = {HERE / name: number for number, name in enumerate(LONGEST)}
    missing = [path for path in place if not path.exists()]
    assert not missing, f"LONGEST in {__file__} names files that are not there: {missing}"
    items.sort(key=lambda item: place.get(item.path, len(place)))


def pytest_collection_finish() -> None:
    """Leave a million objects of modules and tests out of every later garbage collection."""
    gc.freeze()
    gc.enable()


class ByServer(LoadFileScheduling):
    """Gives each worker whole files, and those files to one worker that share a server."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0]).relative_to("tests")
        folder = file.parent.as_posix()
        return folder if folder in TOGETHER and file.as_posix() not in LONGEST else file.as_posix()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    """For ``--dist loadfile``."""
    return ByServer(config, log) if config.getvalue("dist") == "loadfile" else None
