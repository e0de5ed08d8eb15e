"""What is only an optimisation may be refused by the system, by whichever error."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.places.small import told_in
from tests.places.test_streams import LATIN
from tests.support.refuse import CALLS
from tests.support.requests import complete
from tests.support.server import COMMAND as DYNAMO
from tests.support.server import Server

REFUSE = (sys.executable, "-m", "tests.support.refuse")
TOLD = {
    "F_ADD_SEALS": "fcntl(F_ADD_SEALS) is refused here",
    "PR_SET_PDEATHSIG": "prctl(PR_SET_PDEATHSIG) is refused here",
    "PR_SET_CHILD_SUBREAPER": "prctl(PR_SET_CHILD_SUBREAPER) is refused here",
    "sched_setscheduler": "sched_setscheduler(SCHED_BATCH) is refused here",
}

ELSEWHERE = {"PR_SET_CHILD_SUBREAPER"}
"""In tests/supervisor/test_zygote.py: children are not below the supervisor then."""


@pytest.mark.parametrize("code", ["EPERM", "EINVAL", "ENOSYS"])
def test_the_tree_starts_without_any_of_them_and_says_so(code: str) -> None:
    """It also replaces a child, and ends."""
    calls = ["PR_SET_NAME", "PR_SET_MM", *sorted(TOLD.keys() - ELSEWHERE)]
    said = told_in([*REFUSE, code, *calls, "--"])
    assert "serving on" in said
    for call in TOLD.keys() - ELSEWHERE:
        assert TOLD[call] in said


def test_cores_are_counted_where_nobody_says_which_are_ours() -> None:
    code = (
        "import os, logging; logging.basicConfig()\n"
        "from dynamo_cli.host.optional import cores_of_this_process\n"
        "print(len(cores_of_this_process()) == os.cpu_count())\n"
    )
    command = [*REFUSE, "EPERM", "sched_getaffinity", "--", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert "sched_getaffinity is refused here" in done.stderr


def gone(folder: Path) -> tuple[str, ...]:
    """Begins a command that runs in a folder that is removed, without an input."""
    folder.mkdir()
    return ("bash", "-c", 'cd "$0" && rmdir "$0" && exec "$@" <&-', str(folder))


def as_nobody() -> tuple[str, ...]:
    """Begins a command that a uid without a name runs; empty where that cannot be.

    It may read every file: Python itself may be installed in root's home.
    """
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return ()
    read_all = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", *read_all)


@pytest.mark.engine
def test_a_server_starts_with_all_of_them_refused_in_a_folder_that_is_gone_without_a_home(
    tmp_path: Path,
) -> None:
    """vLLM's and torch's own calls too, in the processor; vLLM cannot do without one of them.

    It has neither a folder nor an input, no home and no name, and writes Latin-1: one server is in
    all strange places.
    """
    calls = [call for call in CALLS if call != "sched_getaffinity"]

    class Strange(Server):
        command = (
            *(*gone(tmp_path / "gone"), *as_nobody(), *REFUSE, "EPERM", *calls, "--"),
            *(sys.executable, DYNAMO),
        )

    usual = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    variables = {"HOME": "/nonexistent", "USER": "", "LOGNAME": "", "PYTHONPATH": str(Path.cwd())}
    # What vLLM knows of model classes takes 10 s to find out anew.
    variables["VLLM_CACHE_ROOT"] = os.environ.get("VLLM_CACHE_ROOT", str(usual / "vllm"))
    with tempfile.TemporaryDirectory(prefix="dynamo-test-", dir="/tmp") as place:
        folder = Path(place)
        folder.chmod(0o777)
        variables["TMPDIR"] = place
        with Strange("--engine", "mock", environment=LATIN | variables) as server:
            assert complete(server)[0] == 200
            for told in (*TOLD.values(), "the working directory is gone"):
                assert told in server.log
            assert f"caches are in {place}/dynamo-llm-" in server.log
            assert [*folder.glob("dynamo-llm-*/dynamo-llm/models/tiny-1/config.json")]
        assert not list(folder.iterdir())
