"""Folders of models: a complete one, and ways to break it as they occur in practice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"

Change = Callable[[Path], Any]


def safetensors(size: int = 64) -> bytes:
    """A safetensors file with one tensor of so many bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(size)


def whole(folder: Path) -> Path:
    """A folder that passes `preflight`; vLLM would need real weights."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (folder / "chat_template.jinja").write_text("{% generation %}{{ m }}{% endgeneration %}")
    (folder / "model.safetensors").write_bytes(safetensors())
    return folder


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def cut(name: str, size: int) -> Change:
    """Keep only the first so many bytes of a file; a negative number is cut off its end."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def remove(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def add(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + data)


def config(**values: Any) -> Change:
    """Change values in ``config.json``; None removes one."""

    def change(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text()) | values
        kept = {key: value for key, value in found.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def shards(index: str | None, *present: int) -> Change:
    """Split the weights into three files, of which only some are there."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        for number in present:
            name = f"model-{number:05}-of-00003.safetensors"
            (folder / name).write_bytes(safetensors())
        if index is not None:
            (folder / "model.safetensors.index.json").write_text(index)

    return change


INDEX = json.dumps(
    {"weight_map": {f"w{n}": f"model-{n:05}-of-00003.safetensors" for n in range(1, 4)}}
)


def only(*files: tuple[str, str]) -> Change:
    """Remove all files but these."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder)
        for name, text in files:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return change


def link(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def several(*changes: Change) -> Change:
    return lambda folder: [change(folder) for change in changes]


BROKEN: dict[str, tuple[Change, str]] = {
    # name of the fault: how to make it, part of the error message
    "nothing in it": (only((".gitkeep", "")), "holds no model: it has no config.json"),
    "an LFS pointer for weights": (write("model.safetensors", POINTER), "git lfs pull"),
    "an LFS pointer for the tokenizer": (write("tokenizer.json", POINTER), "git lfs pull"),
    "an LFS pointer for the template": (write("chat_template.jinja", POINTER), "git lfs pull"),
    "an LFS pointer for the config": (write("config.json", POINTER), "git lfs pull"),
    "weights cut in the data": (cut("model.safetensors", -10), "is cut short: it has"),
    "weights cut in the header": (cut("model.safetensors", 30), "is cut short, in its header"),
    "weights cut at once": (cut("model.safetensors", 4), "is cut short, in its header"),
    "empty weights": (cut("model.safetensors", 0), "model.safetensors is empty"),
    "weights with more behind": (add("model.safetensors", b"more"), "is broken: it has"),
    "weights that are a page": (
        write("model.safetensors", "<html>Not Found</html>"),
        "is not a safetensors file",
    ),
    "weights with a broken header": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (8).to_bytes(8, "little") + b"{broken}"
        ),
        "its header is broken",
    ),
    "weights without offsets": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (9).to_bytes(8, "little") + b'{"w": {}}'
        ),
        "its header is broken",
    ),
    "weights whose header is a list": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (2).to_bytes(8, "little") + b"[]"
        ),
        "its header is broken",
    ),
    "no weights": (remove("model.safetensors"), "has no weights (*.safetensors)"),
    "GGUF only, with a config": (
        several(remove("model.safetensors"), write("m.gguf", "GGUF")),
        "as GGUF only",
    ),
    "GGUF only": (only(("m-Q4.gguf", "GGUF")), "holds GGUF only"),
    "a link to nothing": (link("model.safetensors", "../../blobs/1"), "a link to ../../blobs/1"),
    "a shard missing": (shards(INDEX, 1, 3), "lacks model-00002-of-00003.safetensors, of 3"),
    "two shards missing": (shards(INDEX, 1), "lacks model-00002-of-00003.safetensors and 1 more"),
    "a shard missing without index": (shards(None, 1, 2), "lacks model-00003-of-00003"),
    "a shard cut short": (
        several(shards(INDEX, 1, 2, 3), cut("model-00002-of-00003.safetensors", -1)),
        "model-00002-of-00003.safetensors is cut short",
    ),
    "a broken index": (shards("{bad", 1, 2, 3), "index.json is not JSON"),
    "an index without weights": (shards("{}", 1, 2, 3), "it has no weight_map"),
    "a pickle that is a page": (
        several(remove("model.safetensors"), write("pytorch_model.bin", "<html>")),
        "pytorch_model.bin is not a PyTorch weight file",
    ),
    "a config that is no JSON": (
        write("config.json", '{"a": 1,\n"b"}'),
        "config.json is not JSON",
    ),
    "an empty config": (write("config.json", ""), "config.json is empty"),
    "a config that is a list": (write("config.json", "[]"), "config.json holds no JSON object"),
    "a config of nothing": (write("config.json", "{}"), "it has no model_type"),
    "a config in another encoding": (
        lambda folder: (folder / "config.json").write_bytes("{}".encode("utf-16")),
        "config.json is not JSON",
    ),
    "no tokenizer": (remove("tokenizer.json", "tokenizer_config.json"), "has no tokenizer"),
    "only the tokenizer's config": (remove("tokenizer.json"), "has no tokenizer"),
    "a tokenizer that is no JSON": (write("tokenizer.json", "{bad"), "tokenizer.json is not JSON"),
    "an empty tokenizer": (write("tokenizer.json", ""), "tokenizer.json is empty"),
    "a tokenizer of nothing": (write("tokenizer.json", "{}"), "holds no tokenizer"),
    "a broken config of the tokenizer": (write("tokenizer_config.json", "{"), "is not JSON"),
    "a broken generation config": (write("generation_config.json", "{"), "is not JSON"),
    "a broken template": (
        write("chat_template.jinja", "{% if x %}"),
        "chat_template.jinja is not a Jinja template",
    ),
    "a broken template in the config": (
        write("tokenizer_config.json", '{"chat_template": "{{"}'),
        "chat_template in",
    ),
    "an adapter": (
        only(("adapter_config.json", '{"base_model_name_or_path": "acme/base"}')),
        "(acme/base), and --enable-lora --lora-modules NAME=",
    ),
    "a place in the cache": (
        only(("snapshots/abc/config.json", "{}"), ("refs/main", "abc")),
        "the model is in one of the folders below",
    ),
    "a model of pictures": (only(("model_index.json", "{}")), "image generation model"),
    "the folder above": (only(("inner/config.json", "{}")), "Did you mean"),
}
