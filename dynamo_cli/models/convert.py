"""Converts the GGUF file of a small Llama into a Hugging Face folder, without torch.

GGUF differs in three ways: tensors have other names, the rows of query and key matrices are
ordered for another form of rotary embedding, and weights are quantized in blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from dynamo_cli.models.checkpoint import (
    LlamaShape,
    SpecialTokens,
    bfloat16,
    write_config,
    write_tokenizer,
    write_weights,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
SAMPLING = {"temperature": 0.0}
"""For requests that name no temperature. With vLLM's default of 1, a model of this size answers
with random words; with the 0.2 that its authors recommend, still one time in three."""

CONTROL = 3  # type of special tokens, into which no text may be tokenized


def convert(file: Path, folder: Path) -> None:
    """Write the model of `file` into `folder` in bfloat16; needs twice its size in memory."""
    reader = gguf.GGUFReader(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    shape = _shape(fields, {tensor.name for tensor in reader.tensors})
    special = {
        name: int(fields[f"tokenizer.ggml.{key}_token_id"])
        for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
    ids = {f"{name}_token_id": number for name, number in special.items()}
    write_config(folder, shape, ids, SAMPLING)
    tokens = fields["tokenizer.ggml.tokens"]
    texts = SpecialTokens(**{name: tokens[number] for name, number in special.items()})
    template = fields["tokenizer.chat_template"]
    write_tokenizer(folder, _tokenizer(fields), texts, template, shape.context)
    write_weights(folder, _weights(reader.tensors, shape))


def hub_name(name: str) -> str:
    """``blk.3.attn_q.weight`` -> ``model.layers.3.self_attn.q_proj.weight``."""
    *block, part, kind = name.split(".")
    layer = f"model.layers.{block[1]}." if block else ""
    return f"{layer}{NAMES[part]}.{kind}"


def rotary_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder the rows of each head from x0 y0 x1 y1 ... to x0 x1 ... y0 y1 ...

    The rotary embedding pairs neighbouring rows (x0, y0) in GGUF, and rows that are half a head
    apart in Hugging Face's format.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _shape(fields: dict[str, Any], names: set[str]) -> LlamaShape:
    return LlamaShape(
        vocab=fields["llama.vocab_size"],
        hidden=fields["llama.embedding_length"],
        intermediate=fields["llama.feed_forward_length"],
        layers=fields["llama.block_count"],
        heads=fields["llama.attention.head_count"],
        kv_heads=fields["llama.attention.head_count_kv"],
        head_dim=fields["llama.rope.dimension_count"],
        context=fields["llama.context_length"],
        rope_theta=fields["llama.rope.freq_base"],
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        tied_embeddings="output.weight" not in names,
    )


def _weights(tensors: list[Any], shape: LlamaShape) -> dict[str, NDArray[Any]]:
    weights = {}
    for tensor in tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        if ".attn_q." in tensor.name:
            weight = rotary_halves(weight, shape.heads)
        elif ".attn_k." in tensor.name:
            weight = rotary_halves(weight, shape.kv_heads)
        weights[hub_name(tensor.name)] = bfloat16(weight)
    return weights


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """The tokenizer of SmolLM2: byte-level BPE in which every digit is a token of its own."""
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocabulary = {text: number for number, text in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    tokenizer.add_special_tokens(
        [
            AddedToken(text, special=True, normalized=False)
            for text, kind in zip(tokens, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    return tokenizer
