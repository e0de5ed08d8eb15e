"""What ranks leave behind goes, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.remover_driver import removed
from tests.support.call import call

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("names", [[], ["vllm_dist_1"]])
def test_files_of_ended_ranks_are_removed(tmp_path: Path, names: list[str]) -> None:
    folder, shared = tmp_path / "ranks", tmp_path / "shm"
    folder.mkdir()
    shared.mkdir()
    for name in names:
        (folder / name).touch()
    others = ["vllm_dist_12-tp:0-[0-1]-cpushm_0", "vllm_dist_2-tp:0-[0-1]-cpushm_0"]
    for name in [*others, *(f"{name}-tp:0-[0-1]-cpushm_{rank}" for name in names for rank in "01")]:
        (shared / name).touch()
    assert call(removed, str(folder), str(shared)) == [False, others]


def test_where_there_is_no_shared_memory_the_folder_goes(tmp_path: Path) -> None:
    folder = tmp_path / "ranks"
    folder.mkdir()
    (folder / "vllm_dist_1").touch()
    assert call(removed, str(folder), str(tmp_path / "nowhere")) == [False, []]
