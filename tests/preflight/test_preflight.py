"""Mistakes in options and folders that are reported without vLLM, in this process and at once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dynamo_cli.cli import app
from dynamo_cli.config import Device
from dynamo_cli.errors import DynamoError, ModelError, ModelUnreachable
from dynamo_cli.host.gpus import Gpu
from dynamo_cli.models import hub
from dynamo_cli.plan import preflight
from dynamo_cli.plan.machine import Machine
from dynamo_cli.plan.resolve import resolve
from dynamo_cli.plan.typed import Typed
from dynamo_cli.units import MIB
from tests.cli.test_command import command
from tests.preflight import folders

CPU = Machine(cores=2, available_bytes=8192 * MIB)
GPU = replace(CPU, gpus=(Gpu(Device("0", "GPU-0"), "H100", 81920 * MIB),))


def judge(*args: str, machine: Machine = CPU) -> None:
    """Do what the command does before it starts a process."""
    typed = app.typed_of(app.parse(args))
    resolve(typed, machine)
    preflight.check(typed, ask_hub=False)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return folders.whole(tmp_path / "model")


def test_nothing_is_wrong_with_a_whole_folder(model: Path) -> None:
    judge("--model", str(model))


@pytest.mark.parametrize(("change", "says"), folders.BROKEN.values(), ids=folders.BROKEN)
def test_what_is_wrong_with_a_folder_has_its_sentence(
    change: folders.Change, says: str, model: Path
) -> None:
    change(model)
    with pytest.raises(ModelError) as caught:
        judge("--model", str(model))
    assert says in caught.value.message
    assert str(model) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "change",
    [
        folders.shards(folders.INDEX, 1, 2, 3),
        folders.shards(None, 1, 2, 3),
        folders.several(folders.remove("tokenizer.json"), folders.write("tokenizer.model", "x")),
        folders.several(folders.remove("tokenizer.json"), folders.write("qwen.tiktoken", "x")),
        folders.several(
            folders.remove("model.safetensors"), folders.write("pytorch_model.bin", "PK\3\4")
        ),
        folders.several(folders.remove("config.json"), folders.write("params.json", "{}")),
        folders.config(model_type=None, auto_map={"AutoConfig": "own.Config"}),
        folders.write("training_args.bin", "what a trainer leaves"),
        folders.remove("chat_template.jinja", "generation_config.json", "tokenizer_config.json"),
    ],
)
def test_other_whole_folders(change: folders.Change, model: Path) -> None:
    change(model)
    judge("--model", str(model))


@pytest.mark.parametrize(
    ("change", "args"),
    [
        (folders.remove("model.safetensors"), ("--load-format", "dummy")),
        (folders.remove("model.safetensors"), ("--engine", "mock")),
        (folders.remove("tokenizer.json"), ("--tokenizer", "acme/other")),
        (folders.remove("tokenizer.json"), ("--skip-tokenizer-init",)),
        (folders.config(model_type=None), ("--hf-config-path", ".")),
    ],
)
def test_what_is_not_loaded_may_be_missing(
    change: folders.Change, args: tuple[str, ...], model: Path
) -> None:
    change(model)
    judge("--model", str(model), *args)


OPTIONS: dict[str, str] = {
    "--max-num-seqs abc": "--max-num-seqs takes a whole number; not 'abc'",
    "--max-num-seqs 0": "--max-num-seqs must be at least 1; not 0",
    "--max-num-seqs 1.5": "takes a whole number",
    "--gpu-memory-utilization 2": "must be above 0 and at most 1; not 2",
    "--gpu-memory-utilization nan": "must be above 0 and at most 1; not nan",
    "--gpu-memory-utilization half": "takes a number; not 'half'",
    "--stream-interval 0": "--stream-interval must be at least 1; not 0",
    "--max-logprobs -5": "must be at least -1; not -5",
    "--max-model-len abc": "takes a whole number, such as 4096, 4k or 4K, or auto",
    "--max-model-len -7": "--max-model-len must be at least 1; not -7",
    "--max-model-len 0": "--max-model-len must be at least 1; not 0",
    "--max-model-len 0k": "--max-model-len must be at least 1; not 0k",
    "--max-cpu-loras 0": "--max-cpu-loras must be at least 1; not 0",
    "--spec-tokens 0": "--spec-tokens must be at least 1; not 0",
    "--cudagraph-capture-sizes 1 0": "--cudagraph-capture-sizes must be at least 1; not 0",
    "--cpu-offload-gb -1": "--cpu-offload-gb must be at least 0; not -1",
    "--cpu-offload-gb nan": "--cpu-offload-gb must be at least 0; not nan",
    "--mm-processor-cache-gb inf": "takes a number of at most 64 bits; not inf",
    "--seed 9223372036854775808": "--seed takes a whole number of at most 64 bits",
    "--kv-cache-memory-bytes 4Gi": "takes a whole number, such as 4096, 4k or 4K; not '4Gi'",
    "--kv-cache-memory-bytes 0": "--kv-cache-memory-bytes must be at least 1; not 0",
    "--kv-cache-memory-bytes 0G": "--kv-cache-memory-bytes must be at least 1; not 0G",
    "--kv-cache-memory-bytes=-5": "--kv-cache-memory-bytes must be at least 1; not -5",
    "--num-gpu-blocks-override -4": "--num-gpu-blocks-override must be at least 1; not -4",
    "--max-num-batched-tokens 1.5K": "takes a whole number",
    "--cudagraph-capture-sizes 1 two": "takes a whole number; not 'two'",
    "--hf-overrides {bad": "'{bad' is not JSON: Expecting property name",
    "--compilation-config {bad": "--compilation-config takes a JSON object",
    "--compilation-config 3": "--compilation-config takes a JSON object",
    "--override-generation-config [1]": "takes a JSON object",
    "--limit-mm-per-prompt image=1": "takes a JSON object",
    "--speculative-config {'a':1}": "in single quotes",
    "--chat-template /nope": "--chat-template /nope: there is no such file",
    "--chat-template ./nope.jinja": "--chat-template ./nope.jinja: there is no such file",
    "--chat-template /tmp": "--chat-template /tmp is a folder",
    "--chat-template {{": "the text of --chat-template is not a Jinja template",
    "--reasoning-parser nope": "--reasoning-parser cannot be 'nope'; it is one of",
    "--reasoning-parser qwen": "Did you mean qwen3?",
    "--tool-call-parser hermse": "Did you mean hermes?",
    "--enable-auto-tool-choice": "--enable-auto-tool-choice needs --tool-call-parser",
    "--tokenizer-mode nope": "--tokenizer-mode cannot be 'nope'",
    "--config-format nope": "--config-format cannot be 'nope'",
    "--model-impl nope": "--model-impl cannot be 'nope'",
    "--tool-parser-plugin /nope.py": "--tool-parser-plugin /nope.py: there is no such file",
    "--reasoning-parser-plugin nope": "and no module of that name",
    "--lora-modules a=/nope": "--lora-modules needs --enable-lora",
    "--enable-lora --lora-modules a=/nope": "--lora-modules /nope: there is no such folder",
    "--enable-lora --lora-modules a": "--lora-modules takes NAME=PATH",
    "--enable-lora --lora-modules {bad": "--lora-modules takes NAME=PATH",
    "--enable-lora --lora-modules a=/tmp": "/tmp holds no LoRA adapter",
    '--enable-lora --lora-modules {"name":"a","path":"/nope"}': "there is no such folder",
    "--tokenizer /nope": "--tokenizer /nope: there is no such folder",
    "--tokenizer ./nope": "--tokenizer ./nope: there is no such folder",
    "--generation-config /missing": "--generation-config /missing: there is no such folder",
    "--hf-config-path /missing": "--hf-config-path /missing: there is no such folder",
    "--spec-model /missing": "the draft model /missing: there is no such folder",
    '--speculative-config {"model":"/missing"}': "the draft model /missing",
    "--worker-cls nope.Nope": "--worker-cls nope.Nope: there is no module nope",
    "--worker-cls nope": "--worker-cls takes a class as MODULE.CLASS; not 'nope'",
    "--scheduler-cls nope.Nope": "there is no module nope",
    "--logits-processors a.b:C": "--logits-processors a.b:C: there is no module a",
    "--logits-processors ab": "takes a class as MODULE:CLASS",
    "--quantization fp8": "--quantization fp8 needs a GPU",
    "-q fp8": "-q fp8 needs a GPU",
    "--kv-offloading-size 1": "--kv-offloading-size 1 needs a GPU",
    "--enable-sleep-mode": "--enable-sleep-mode needs a GPU",
    "--block-size 16": "--block-size 16: an engine on a CPU needs a multiple of 32",
    "--allowed-local-media-path /nope": "there is no such folder",
    "--record /nope/x": "--record /nope/x: there is no folder /nope",
    "--record /tmp": "--record /tmp is a folder",
    "--served-model-name --workers 2": "--served-model-name needs a value",
    "--api-key --max-num-seqs 2": "--api-key needs a value",
    "--disable-log-requests": "leave it out",
    "-p 8000": "Did you mean --http-port?",
    "--task embed": "--runner and --convert",
    "--tp 2": "Did you mean --worker-tp?",
    "--disable-prefix-caching": "Did you mean --no-enable-prefix-caching?",
    "--disable-log-stat": "Did you mean --disable-log-stats?",
}


@pytest.mark.parametrize(("args", "says"), OPTIONS.items(), ids=OPTIONS)
def test_what_is_wrong_with_an_option_has_its_sentence(args: str, says: str) -> None:
    with pytest.raises(DynamoError) as caught:
        judge("--model", "tiny", *args.split(" "))
    assert says in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "args",
    [
        "--max-model-len auto --max-num-batched-tokens 4k --kv-cache-memory-bytes 1.5g",
        "--max-model-len -1 --max-logprobs -1 --gpu-memory-utilization 1",
        '--compilation-config {"mode":0} -cc.mode 1 --hf-overrides {"a":1}',
        '--additional-config {"size":80m}',
        "--chat-template template_chatml.jinja",
        "--tool-call-parser hermes --enable-auto-tool-choice --reasoning-parser qwen3",
        "--logits-processors json:JSONDecoder --scheduler-cls json.JSONDecoder",
        "--tool-parser-plugin json --tool-call-parser mine",
        "--distributed-executor-backend my.Executor",
        "--tokenizer acme/other --generation-config vllm --spec-model acme/draft",
        "--enable-lora --lora-modules a=acme/adapter",
    ],
)
def test_what_is_right_passes(args: str) -> None:
    judge("--model", "tiny", *args.split(" "))


def test_a_gpu_can_what_a_cpu_cannot() -> None:
    args = "--quantization fp8 --kv-offloading-size 1 --enable-sleep-mode --block-size 16"
    judge("--model", "tiny", *args.split(), machine=GPU)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("m.gguf", "m.gguf is a GGUF file: vLLM does not read it"),
        ("./m.gguf", "m.gguf is a GGUF file: vLLM does not read it"),
        ("gone.gguf", "There is no folder gone.gguf"),
        ("a/b/c", "There is no folder a/b/c"),
        ("./notes.txt", "notes.txt is a file; a model is a folder"),
        ("model/config.json", None),
        ("~nobody.at.all/m", "the home directory for its ~ is unknown"),
        ("https://hub/acme/m", "give a Hugging Face id (perhaps acme/m) or a folder"),
        ("file:///data/m", "--model /data/m"),
        ("model/model.safetensors", "give its folder, model"),
    ],
)
def test_paths_that_are_no_folders(
    name: str, says: str | None, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    for file in ("m.gguf", "notes.txt"):
        Path(file).write_text("GGUF")
    if says is None:  # it may be a name on a hub, and a dry run does not ask the hub
        judge("--model", name)
        return
    with pytest.raises(ModelError) as caught:
        judge("--model", name)
    assert says in caught.value.message


def test_a_hub_that_does_not_answer_is_nobodys_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "answers", lambda: False)
    typed = Typed(model="acme/none")
    preflight.check(typed, ask_hub=False)
    with pytest.raises(ModelUnreachable, match="hub does not answer") as caught:
        preflight.check(typed, ask_hub=True)
    assert caught.value.exit_code == 1


def test_an_adapter_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    args = ("--model", "tiny", "--enable-lora", "--lora-modules", f"a={tmp_path}")
    with pytest.raises(ModelError, match="has no weights"):
        judge(*args)
    (tmp_path / "adapter_model.safetensors").write_text(folders.POINTER)
    with pytest.raises(ModelError, match="git lfs pull"):
        judge(*args)
    (tmp_path / "adapter_model.safetensors").write_bytes(folders.safetensors())
    judge(*args)


def test_a_tokenizer_elsewhere_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{bad")
    with pytest.raises(ModelError, match="is not JSON"):
        judge("--model", "tiny", "--tokenizer", str(tmp_path))


@pytest.mark.parametrize("first", [(), ("--dry-run",), ("doctor",)])
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--model", "/nonexistent"), "There is no folder /nonexistent"),
        (("--model", "{lfs}"), "git lfs pull"),
        (("--model", "tiny", "--max-num-seqs", "abc"), "takes a whole number"),
        (("--model", "tiny", "--tokenizer", "/nope"), "there is no such folder"),
        (("--model", "tiny", "--workers", "x"), "--workers is a number"),
    ],
)
def test_all_three_commands_say_the_same(
    first: tuple[str, ...], args: tuple[str, ...], says: str, model: Path
) -> None:
    folders.write("model.safetensors", folders.POINTER)(model)
    words = [str(model) if word == "{lfs}" else word for word in args]
    done = command(*first, *words)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("dynamo-llm: error: ")
    assert says in done.stderr


def test_none_of_it_needs_vllm() -> None:
    heavy = {"vllm", "torch", "transformers", "safetensors"}
    code = (
        "import sys\n"
        "from dynamo_cli.cli import app\n"
        "from dynamo_cli.plan import preflight\n"
        "typed = app.typed_of(app.parse(sys.argv[1:]))\n"
        "preflight.check(typed, ask_hub=False)\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)\n"
    )
    args = ("--model", "tiny", "--chat-template", "template_chatml.jinja")

    subprocess.run([sys.executable, "-c", code, *args], check=True)
