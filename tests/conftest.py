"""For all tests."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.support import preloaded

# What an example takes says more of the machine than of the code.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

gc.disable()  # until all tests are collected: nothing of what that makes is garbage

HERE = Path(__file__).parent
LONGEST = (
    *("disagg/test_real_engines.py", "cluster/test_nodes.py", "kv_routing/test_real_engines.py"),
    *("tree/test_end.py", "tree/test_ranks.py", "api/test_demo.py", "places/test_streams.py"),
    *("tree/test_processor_deaths.py", "host_cache/test_servers.py", "places/test_refusals.py"),
    *("tree/test_deaths.py", "dashboard/test_pictures.py", "dashboard/test_terminal.py"),
    *("docs/test_commands.py", "dashboard/test_keys.py", "fuzz/test_fuzz.py"),
    *("processor/test_token_memory.py", "container/test_first_process.py"),
    *("kv/test_engine_events.py", "load/test_real_engine.py", "supervisor/test_zygote.py"),
    *("places/test_log.py", "engine/test_kinds.py", "engine/test_resume.py"),
    *("processor/test_resumes.py", "api/test_other_servers.py", "places/test_terminal.py"),
    *("mock/test_server.py", "processor/test_stalls.py", "ipc/test_kills.py"),
)
"""Files that take longest, which begin first: the last one to end shall not run alone.

The second one needs no vLLM while the first worker waits for its import. `make test` hands out
whole files in this order (``--no-loadscope-reorder``), and files of
`TOGETHER` as one. For those that are worth a place here see ``--durations=100``.
"""

TOGETHER = ("api", "models_api", "observe")
"""Folders whose files share a server; those of `LONGEST` start other ones."""


def pytest_configure(config: pytest.Config) -> None:
    """Before xdist starts its workers."""
    if config.getoption("numprocesses", None):
        preloaded.share()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their length: what they hold may be made anew by each worker of xdist.

    A gzip header, for one, holds the time, and workers that collect other names end the run.
    """
    return f"{argname} of {len(val)} bytes" if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others in their order."""
    place = {HERE / name: number for number, name in enumerate(LONGEST)}
    missing = [path for path in place if not path.exists()]
    assert not missing, f"LONGEST in {__file__} names files that are not there: {missing}"
    items.sort(key=lambda item: place.get(item.path, len(place)))


HEAVY = ("vllm", "torch", "transformers", "openai")
"""What no test module may import: 10 s of each worker, and memory that each of its forks copies.

`tests.support.call` and `tests.support.driver` run what needs it elsewhere.
"""


def pytest_collection_finish() -> None:
    """Leave all objects of modules and tests out of every later garbage collection."""
    found = sorted(sys.modules.keys() & set(HEAVY))
    assert not found, f"a test module imports {found}: see HEAVY in {__file__}"
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
