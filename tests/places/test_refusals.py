"""What is only an optimisation may be refused by the system, by whichever error."""

from __future__ import annotations

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


def refused(call: str, code: str = "EPERM") -> str:
    """What is said while the small tree starts, replaces a child and ends."""
    return told_in([*REFUSE, code, call, "--"])


@pytest.mark.parametrize("call", ["PR_SET_NAME", "PR_SET_MM", *sorted(TOLD.keys() - ELSEWHERE)])
def test_the_tree_starts_without_it_and_says_so(call: str) -> None:
    said = refused(call)
    assert TOLD.get(call, "serving on") in said


@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS"])
def test_whatever_the_error_is(code: str) -> None:
    assert TOLD["sched_setscheduler"] in refused("sched_setscheduler", code)


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


@pytest.mark.engine
def test_a_server_starts_with_all_of_them_refused_in_a_folder_that_is_gone() -> None:
    """vLLM's and torch's own calls too, in the processor; vLLM cannot do without one of them.

    It has neither a folder nor an input, and writes Latin-1: one server is in all strange places.
    """
    calls = [call for call in CALLS if call != "sched_getaffinity"]
    gone = ("bash", "-c", 'cd "$0" && rmdir "$0" && exec "$@" <&-', tempfile.mkdtemp(), DYNAMO)

    class Strange(Server):
        command = (*REFUSE, "EPERM", *calls, "--", *gone)

    with Strange("--engine", "mock", environment=LATIN | {"PYTHONPATH": str(Path.cwd())}) as server:
        assert complete(server)[0] == 200
        for told in (*TOLD.values(), "the working directory is gone"):
            assert told in server.log
