"""Log files are rotated by size, survive other programs, and never stand in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_cli.cli.forms import line
from dynamo_cli.cli.views import log_file
from dynamo_cli.host.rotation import KEPT_FILES, RotatedFile
from tests.support.server import wait_until

SMALL = 100
"""Size of a file with three of the lines that tests write."""


def file_at(path: Path, limit_bytes: int = SMALL) -> RotatedFile:
    return log_file(path, line, limit_bytes)


def text(number: int) -> str:
    return f"line {number:<24}\n"


def test_every_line_is_in_one_of_the_files_and_no_file_gets_too_large(tmp_path: Path) -> None:
    path = tmp_path / "log"
    out = file_at(path)
    for number in range(15):
        out.write(text(number))
    out.close()
    names = [path.name, *(f"log.{number}" for number in range(1, KEPT_FILES))]
    assert {one.name for one in tmp_path.iterdir()} == set(names)
    found = "".join((tmp_path / name).read_text() for name in reversed(names))
    assert found == "".join(map(text, range(15)))
    assert all(one.stat().st_size <= SMALL for one in tmp_path.iterdir())


def test_the_oldest_file_is_dropped(tmp_path: Path) -> None:
    out = file_at(tmp_path / "log")
    for number in range(30):
        out.write(text(number))
    out.close()
    assert len(list(tmp_path.iterdir())) == KEPT_FILES + 1
    assert (tmp_path / f"log.{KEPT_FILES}").read_text().startswith(text(12))


def test_it_goes_on_with_a_file_of_an_earlier_run(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    out = file_at(path)
    out.write("after\n")
    out.close()
    assert path.read_text() == "before\nafter\n"


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_file_that_another_program_takes_away_is_made_anew(tmp_path: Path, how: str) -> None:
    path = tmp_path / "log"
    out = file_at(path)
    out.write("first\n")
    wait_until(lambda: path.read_text() == "first\n", 10, "it is written")
    if how == "moved":
        path.rename(tmp_path / "elsewhere")
    else:
        path.unlink()
    out.write("second\n")
    out.close()
    assert path.read_text() == "second\n"
    assert out.lost == 0


def test_where_it_cannot_be_rotated_it_grows_and_says_so_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    (tmp_path / f"log.{KEPT_FILES}" / "in the way").mkdir(parents=True)
    (tmp_path / f"log.{KEPT_FILES - 1}").write_text("")  # a file cannot replace a folder
    out = file_at(path)
    for number in range(10):
        out.write(text(number))
    out.close()
    lines = path.read_text().splitlines(keepends=True)
    complaints = [one for one in lines if "cannot be rotated" in one]
    assert len(complaints) == 1
    assert [one for one in lines if one not in complaints] == list(map(text, range(10)))


def test_lines_are_counted_when_the_folder_is_gone_and_told_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "log"
    path.parent.mkdir()
    out = file_at(path, 10_000)
    out.write("first\n")
    wait_until(lambda: path.read_text() == "first\n", 10, "it is written")
    path.unlink()
    path.parent.rmdir()
    out.write("lost\n")
    wait_until(lambda: out.lost == 1, 10, "it is lost")
    path.parent.mkdir()
    out.write("third\n")
    out.close()
    assert "a line of this log is missing here" in path.read_text()
    assert path.read_text().endswith("third\n")


def test_a_line_that_is_larger_than_a_file_has_a_file_of_its_own(tmp_path: Path) -> None:
    long = "x" * (2 * SMALL) + "\n"
    out = file_at(tmp_path / "log")
    out.write(long)
    out.write(long)
    out.close()
    assert {one.name: one.read_text() for one in tmp_path.iterdir()} == {"log": long, "log.1": long}


def test_it_says_again_that_it_cannot_be_rotated_when_it_could_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / f"log.{KEPT_FILES}"
    out = file_at(tmp_path / "log")
    for _ in range(2):
        folder.unlink(missing_ok=True)
        (folder / "in the way").mkdir(parents=True)
        (tmp_path / f"log.{KEPT_FILES - 1}").write_text("")  # a file cannot replace a folder
        for number in range(4):
            out.write(text(number))
        wait_until(lambda: text(3) in (tmp_path / "log").read_text(), 10, "it is written")
        (folder / "in the way").rmdir()
        folder.rmdir()
        out.write(text(4))
        wait_until(folder.is_file, 10, "it is rotated")
    out.close()
    told = "".join(one.read_text() for one in tmp_path.iterdir())
    assert told.count("cannot be rotated") == 2


def test_it_stays_in_its_folder_when_the_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    out = file_at(Path("log"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for number in range(5):
        out.write(text(number))
    out.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["elsewhere", "log", "log.1"]
    assert not list((tmp_path / "elsewhere").iterdir())
