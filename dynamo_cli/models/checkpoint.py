"""Writes a Llama checkpoint in Hugging Face's layout, without importing torch.

config.json  generation_config.json  model.safetensors
tokenizer.json  tokenizer_config.json  chat_template.jinja
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The dimensions of a Llama model; `context` is in tokens."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tied_embeddings: bool = False


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Texts of the tokens that begin and end a turn, and of the padding token."""

    bos: str
    eos: str
    pad: str


def write_config(
    folder: Path,
    shape: LlamaShape,
    ids: Mapping[str, int],
    sampling: Mapping[str, float] | None = None,
) -> None:
    """Write ``config.json`` and ``generation_config.json``.

    Args:
        ids: the ids of special tokens.
        sampling: parameters for requests that do not name their own, such as ``temperature``.
    """
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_theta},
        "rms_norm_eps": shape.rms_norm_eps,
        "tie_word_embeddings": shape.tied_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        **ids,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {**ids, **(sampling or {})})


def write_tokenizer(
    folder: Path, tokenizer: Tokenizer, special: SpecialTokens, template: str, context: int
) -> None:
    """Write the tokenizer, the names of its special tokens, and the chat template (Jinja)."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special.bos,
        "eos_token": special.eos,
        "pad_token": special.pad,
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").write_text(template)


def write_weights(folder: Path, tensors: Mapping[str, NDArray[np.uint16]]) -> None:
    """Write ``model.safetensors``: u64 length of the header, JSON header, bfloat16 data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 2 * tensor.size
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Finite float32 values as the bits of bfloat16, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (rounded >> np.uint32(16)).astype("<u2")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
