"""Homes that cannot be written: where caches are put instead, and that they are removed."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dynamo_cli.errors import ResourceError
from dynamo_cli.host import cache

NOWHERE = "/proc/nowhere"
"""A folder that nobody can make, not even root."""

VARIABLES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HOME", "HF_HOME", "USER")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files; no variable names another place."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", NOWHERE)
    return folder


def test_the_usual_place_is_taken_without_a_word(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    before = dict(os.environ)
    with cache.usable() as moved:
        assert (moved, os.environ) == ("", before)
        assert cache.cache_root() == home / ".cache" / "dynamo-llm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new"))
    with cache.usable() as moved:
        assert moved == ""
        assert cache.cache_root() == tmp_path / "new" / "dynamo-llm"
    assert not list(place.iterdir())


def test_without_a_home_caches_are_private_and_go(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", NOWHERE)
    before = dict(os.environ)
    with cache.usable() as moved:
        (private,) = place.iterdir()
        assert f"caches are in {private}" in moved
        assert "XDG_CACHE_HOME=/proc/nowhere, HOME=/proc/nowhere" in moved
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert cache.cache_root().is_relative_to(private)
        told = {os.environ[name] for name in ("HOME", "XDG_CONFIG_HOME")}
        assert all(Path(value).is_relative_to(private) for value in told)
    assert not list(place.iterdir())
    assert os.environ == before


def test_a_home_comes_before_a_private_folder(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", NOWHERE)
    monkeypatch.setenv("HOME", str(tmp_path))
    with cache.usable() as moved:
        assert cache.cache_root() == tmp_path / ".cache" / "dynamo-llm"
        assert f"caches are in {tmp_path}/.cache" in moved
    assert not list(place.iterdir())


def test_models_that_can_only_be_read_stay_of_use(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = tmp_path / "home" / ".cache"
    (usual / "huggingface" / "hub").mkdir(parents=True)
    for name in ("tiny-1", "other-1.work"):
        (usual / "dynamo-llm" / "models" / name).mkdir(parents=True)
    (usual / "dynamo-llm" / "models" / "tiny-1" / "config.json").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cache, "_writable", lambda folder: False)
    with cache.usable():
        models = cache.cache_root() / "models"
        assert [folder.name for folder in models.iterdir()] == ["tiny-1"]
        assert (models / "tiny-1" / "config.json").exists()
        assert os.environ["HF_HOME"] == str(usual / "huggingface")
    assert (usual / "dynamo-llm" / "models" / "tiny-1" / "config.json").exists()
    assert not list(place.iterdir())


def test_a_home_of_somebody_else_is_none(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``docker run --user`` HOME stays /root, which that user may not even list."""
    real = Path.is_dir

    def is_dir(path: Path) -> bool:
        if path.is_relative_to(tmp_path / "home"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "home" / variable))
    monkeypatch.setattr(cache, "_writable", lambda folder: False)
    with cache.usable() as moved:
        assert str(place) in moved
        assert os.environ["HOME"] == os.environ["XDG_CACHE_HOME"]


def test_users_without_a_name_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with cache.usable():
        assert os.environ["USER"] == f"uid{os.getuid()}"
    monkeypatch.setenv("LOGNAME", "me")
    with cache.usable():
        assert "USER" not in os.environ


def test_without_a_temporary_folder_shared_memory_is_one(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only root file system, with nothing mounted on /tmp."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [NOWHERE])
    monkeypatch.setattr(cache, "SHARED_MEMORY", str(place))
    before = dict(os.environ)
    with cache.usable() as moved:
        (private,) = place.iterdir()
        assert str(private) in moved
        assert os.environ["TMPDIR"] == str(private)
    assert not list(place.iterdir())
    assert os.environ == before


def test_where_nothing_can_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", NOWHERE)
    monkeypatch.setattr(cache, "SHARED_MEMORY", NOWHERE)
    with pytest.raises(ResourceError, match="set XDG_CACHE_HOME"), cache.usable():
        pass


def test_the_private_folder_of_a_server_that_was_killed_goes_with_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", NOWHERE)
    code = (
        "import os, signal, sys, tempfile\n"
        "from dynamo_cli.host import cache\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "with cache.usable():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(place)], check=False)
    (left,) = place.iterdir()
    assert list(cache.abandoned()) == [left]
    with cache.usable():
        (private,) = place.iterdir()
        assert private != left
        assert not list(cache.abandoned())
        with cache.usable():
            assert private.exists()
    assert not list(place.iterdir())
