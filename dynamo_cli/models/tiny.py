"""``--model tiny``: a Llama with random weights that is written in a second, for tests and trials.

Its tokenizer works on bytes, so that it takes and gives any text, and its chat template is ChatML.
Its answers are meaningless, but the same on every machine: weights, merges and files depend only on
this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from dynamo_cli.models import corpus
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

# Heads of 32 are the smallest that vLLM's attention on the CPU supports.
SHAPE = LlamaShape(
    vocab=1024,
    hidden=64,
    intermediate=128,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=32,
    context=8192,
)
SPECIAL = SpecialTokens(bos="<|im_start|>", eos="<|im_end|>", pad="<|endoftext|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + (message['content'] or '') + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SEED = 0
# Ten times the usual standard deviation: with less, greedy decoding repeats one token for ever.
WEIGHT_STD = 0.2


def write(folder: Path) -> None:
    """Write the model into `folder`: 0.5 MB, the same bytes every time."""
    tokenizer = _tokenizer()
    numbers = tokenizer.get_vocab()
    ids = {
        "bos_token_id": numbers[SPECIAL.bos],
        "eos_token_id": numbers[SPECIAL.eos],
        "pad_token_id": numbers[SPECIAL.pad],
    }
    write_config(folder, SHAPE, ids)
    write_tokenizer(folder, tokenizer, SPECIAL, CHATML, SHAPE.context)
    write_weights(folder, dict(_tensors()))


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE.vocab,
        special_tokens=[SPECIAL.pad, SPECIAL.bos, SPECIAL.eos],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([corpus.TEXT], trainer)
    assert tokenizer.get_vocab_size() == SHAPE.vocab, "the text has too few distinct pairs"
    return tokenizer


def _tensors() -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """All weights by name, in a fixed order: matrices are random, norms are 1."""
    # NumPy promises the same numbers from RandomState in every release.
    random = np.random.RandomState(SEED)

    def matrix(rows: int, columns: int) -> NDArray[np.uint16]:
        return bfloat16((WEIGHT_STD * random.standard_normal((rows, columns))).astype(np.float32))

    def norm() -> NDArray[np.uint16]:
        return bfloat16(np.ones(SHAPE.hidden, np.float32))

    hidden, inner = SHAPE.hidden, SHAPE.intermediate
    queries, keys = SHAPE.heads * SHAPE.head_dim, SHAPE.kv_heads * SHAPE.head_dim
    yield "model.embed_tokens.weight", matrix(SHAPE.vocab, hidden)
    for index in range(SHAPE.layers):
        layer = f"model.layers.{index}"
        yield f"{layer}.input_layernorm.weight", norm()
        yield f"{layer}.self_attn.q_proj.weight", matrix(queries, hidden)
        yield f"{layer}.self_attn.k_proj.weight", matrix(keys, hidden)
        yield f"{layer}.self_attn.v_proj.weight", matrix(keys, hidden)
        yield f"{layer}.self_attn.o_proj.weight", matrix(hidden, queries)
        yield f"{layer}.post_attention_layernorm.weight", norm()
        yield f"{layer}.mlp.gate_proj.weight", matrix(inner, hidden)
        yield f"{layer}.mlp.up_proj.weight", matrix(inner, hidden)
        yield f"{layer}.mlp.down_proj.weight", matrix(hidden, inner)
    yield "model.norm.weight", norm()
    yield "lm_head.weight", matrix(SHAPE.vocab, hidden)
