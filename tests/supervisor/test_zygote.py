"""The zygote starts processes and is nobody's parent: those go on without it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.places.small import BACK_S, COMMAND, Tree, tree
from tests.places.test_refusals import REFUSE, TOLD
from tests.support.server import alive, children_of, wait_until
from tests.support.tree import BARREN, KEYS, LIMIT

FORKED = ("worker 0 [ready]", "worker 1 [ready]", "processor 0 [ready]")
GONE_S = 2.0


class Logged(Tree):
    """A small tree whose log can be read."""

    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def kill(self, name: str) -> None:
        os.kill(self.titles()[f"{name} [ready]"], signal.SIGKILL)

    def wait_log(self, text: str) -> None:
        wait_until(lambda: text in self.log, BACK_S, text)


@contextmanager
def logged(folder: Path, *before: str, **variables: str) -> Iterator[Logged]:
    """One that is ready, started by the command `before` if there is one."""
    path = folder / "log"
    with (
        path.open("w") as log,
        tree(command=[*before, *COMMAND], stderr=log, env=os.environ | variables) as running,
    ):
        found = Logged(running.process)
        found.log_file = path
        try:
            found.wait_ready()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{found.log}") from error
        wait_until(lambda: set(FORKED) <= found.titles().keys(), BACK_S, "all are ready")
        yield found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_its_death_ends_nobody_and_a_new_one_takes_its_place(tmp_path: Path) -> None:
    with logged(tmp_path) as running:
        before = running.titles()
        assert {parent_of(before[name]) for name in FORKED} == {running.process.pid}
        running.kill_and_wait("zygote")
        after = running.titles()
        assert [after[name] for name in FORKED] == [before[name] for name in FORKED]
        for name in ("worker 0", "processor 0"):  # the new one can start them
            running.kill_and_wait(name)
        assert running.stop() == 0
        (line,) = [line for line in running.log.splitlines() if " zygote (pid" in line]
        assert "WARNING" in line
        assert line.endswith("the others go on; it starts again at once")
        assert "ERROR" not in running.log


def test_who_dies_with_it_waits_for_the_new_one(tmp_path: Path) -> None:
    with logged(tmp_path) as running:
        before = running.titles()
        killed = ("zygote [ready]", "frontend [ready]", "worker 0 [ready]", "processor 0 [ready]")
        for name in killed:
            os.kill(before[name], signal.SIGKILL)

        def back() -> bool:
            now = running.titles()
            return all(now.get(name, before[name]) != before[name] for name in killed)

        wait_until(back, BACK_S, "all are back")
        assert running.titles()[FORKED[1]] == before[FORKED[1]]
        assert running.stop() == 0


@pytest.mark.parametrize("name", ["zygote", "worker 1", "frontend"])
def test_kills_without_end_end_nothing(tmp_path: Path, name: str) -> None:
    with logged(tmp_path) as running:
        for _ in range(LIMIT + 2):
            running.kill_and_wait(name)
        assert running.stop() == 0
        assert "given up" not in running.log


def test_all_goes_with_the_supervisor_also_what_an_earlier_zygote_has_forked(
    tmp_path: Path,
) -> None:
    with logged(tmp_path) as running:
        running.kill_and_wait("zygote")
        below = children_of(running.process.pid)
        assert len(below) > len(FORKED)
        running.process.kill()
        running.process.wait()
        wait_until(lambda: not any(map(alive, below)), GONE_S, "everything is gone")


def test_a_process_with_much_to_know_comes_back(tmp_path: Path) -> None:
    """The zygote gets what it is to know in one message: here 330 KB of API keys."""
    with logged(tmp_path, **{KEYS: "5000"}) as running:
        zygote = running.titles()["zygote [ready]"]
        for _ in range(LIMIT + 1):
            running.kill_and_wait("frontend")
        assert running.titles()["zygote [ready]"] == zygote
        assert running.stop() == 0
        assert "ERROR" not in running.log


def test_no_zombie_stays(tmp_path: Path) -> None:
    with logged(tmp_path) as running:
        for name in ("zygote", "worker 0", "frontend"):
            running.kill_and_wait(name)
        pid = running.process.pid
        wait_until(lambda: all(map(alive, children_of(pid))), 5, "all are reaped")


def test_what_multiprocessing_shares_outlives_it(tmp_path: Path) -> None:
    with logged(tmp_path) as running:
        running.kill_and_wait("zygote")
        os.kill(running.titles()["worker 1 [ready]"], signal.SIGUSR1)
        running.wait_log("worker 1 of None, 0")
        assert running.stop() == 0
        assert "resource_tracker" not in running.log


def test_one_that_cannot_be_replaced_leaves_the_others_to_serve(tmp_path: Path) -> None:
    barren = tmp_path / "barren"
    with logged(tmp_path, **{BARREN: str(barren)}) as running:
        barren.touch()
        running.kill("zygote")
        running.wait_log(f"it is given up: {LIMIT} restarts in a row did not help")
        assert set(FORKED) <= running.titles().keys()
        running.kill("worker 0")
        running.wait_log("it is given up: the zygote, which starts it, is given up")
        assert running.process.poll() is None
        running.kill("worker 1")
        assert running.process.wait(BACK_S) != 0
        assert "no request can be served any more" in running.log


def test_one_that_dies_in_the_first_start_ends_it(tmp_path: Path) -> None:
    barren = tmp_path / "barren"
    barren.touch()
    done = subprocess.run(
        COMMAND,
        env=os.environ | {BARREN: str(barren)},
        capture_output=True,
        text=True,
        check=False,
        timeout=BACK_S,
    )
    assert done.returncode != 0
    assert "zygote ended while it started (exit code 3)" in done.stderr


def test_the_log_has_one_line_of_a_death_with_what_became_of_requests(tmp_path: Path) -> None:
    with logged(tmp_path) as running:
        running.kill_and_wait("worker 0")
        running.wait_log(" 3 requests moved, 1 failed")
        running.kill_and_wait("processor 0")
        wait_until(lambda: running.log.count(" 3 requests moved, 1 failed") == 2, BACK_S, "both")
        assert running.stop() == 0
        said = [line for line in running.log.splitlines() if " died: " in line]
        assert len(said) == 2
        for line in said:
            assert "WARNING" in line
            assert line.endswith("; 3 requests moved, 1 failed; it starts again at once")
        assert not [line for line in running.log.splitlines() if line.startswith("    ")]


def ours(group: int) -> dict[str, int]:
    """Pids by title of the processes of a group, whoever their parents are."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            pid = int(path.name)
            if os.getpgid(pid) == group and alive(pid):
                title = (path / "cmdline").read_bytes().rstrip(b"\0").decode()
                found[title.removeprefix("dynamo-llm: ")] = pid
    return found


def test_without_a_subreaper_it_works_and_exits_are_seen_by_sockets(tmp_path: Path) -> None:
    path = tmp_path / "log"
    command = [*REFUSE, "EPERM", "PR_SET_CHILD_SUBREAPER", "--", *COMMAND]
    with path.open("w") as log, tree(command=command, stderr=log) as running:
        group = running.process.pid
        wait_until(lambda: set(FORKED) <= ours(group).keys(), BACK_S, "all are ready")
        before = ours(group)
        os.kill(before["zygote [ready]"], signal.SIGKILL)
        os.kill(before["worker 0 [ready]"], signal.SIGKILL)
        wait_until(
            lambda: ours(group).get("worker 0 [ready]", 0) not in (0, before["worker 0 [ready]"]),
            BACK_S,
            "it is back",
        )
        assert ours(group)["worker 1 [ready]"] == before["worker 1 [ready]"]
        # The line waits a moment for what became of the requests.
        wait_until(lambda: "died: it is not known how" in path.read_text(), BACK_S, "it is told")
        assert TOLD["PR_SET_CHILD_SUBREAPER"] in path.read_text()
        running.process.kill()
        running.process.wait()
        wait_until(lambda: not ours(group), GONE_S, "everything is gone")
