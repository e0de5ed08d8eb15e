"""A root that cannot be written, as hardened containers have it; here a mount namespace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places.small import told_in

READ_ONLY = ("unshare", "--mount", "sh", "-c", 'mount -o remount,bind,ro / && exec "$@"', "-")
CACHES = (
    "import tempfile\n"
    "from dynamo_cli.host.cache import cache_root, usable\n"
    "with usable() as told:\n"
    "    cache_root().mkdir(parents=True, exist_ok=True)\n"
    "    with tempfile.TemporaryFile(): print(cache_root(), told)\n"
)


def _can() -> bool:
    """Only root may make such a place, and not in every sandbox."""
    return not subprocess.run([*READ_ONLY, "true"], capture_output=True, check=False).returncode


pytestmark = pytest.mark.skipif(not _can(), reason="no mount namespace can be made here")


def test_caches_go_where_they_can_be_written_and_leave_nothing() -> None:
    done = subprocess.run(
        [*READ_ONLY, sys.executable, "-c", CACHES],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HOME": "/nonexistent", "PYTHONPATH": os.fspath(Path.cwd())},
    )
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split()[0])
    assert str(folder).startswith("/dev/shm/dynamo-llm-caches-")
    assert "XDG_CACHE_HOME" in done.stdout
    assert not folder.parent.exists()


def test_a_tree_starts_replaces_a_child_and_ends() -> None:
    assert "Traceback" not in told_in(READ_ONLY)
