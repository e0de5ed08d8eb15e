"""The table of what fits on a GPU is what `doctor` computes."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from dynamo_cli.doctor.needs import GPU_OVERHEAD_BYTES, shape_of
from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.units import GIB
from tests.docs.commands import ROOT

PAGE = ROOT / "docs/gpu.md"
MEMORY_GIB = (79.6, 140.4)
BFLOAT16_BYTES = 2


def rows() -> Iterator[list[str]]:
    for line in PAGE.read_text().splitlines():
        if re.search(r"\d+ x \d+ x \d+ \|", line):
            yield [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row[0])
def test_the_table_is_right(row: list[str]) -> None:
    _, wide, weights, per_token, *fits = row
    layers, heads, size = map(int, wide.split(" x "))
    shape = shape_of(
        {
            "num_hidden_layers": layers,
            "num_attention_heads": 4 * heads,
            "num_key_value_heads": heads,
            "head_dim": size,
        }
    )
    assert shape is not None
    token_bytes = shape.layers * shape.kv_heads * shape.head_size * BFLOAT16_BYTES
    assert per_token == f"{token_bytes // 1024} KiB"
    share = float(declared.known()["--gpu-memory-utilization"].default)
    assert f"(`--gpu-memory-utilization`, {share} of all memory)" in PAGE.read_text()
    for memory_gib, said in zip(MEMORY_GIB, fits, strict=True):
        tokens, _, gpus = said.replace(",", "").partition(" on ")
        width = int(gpus.split()[0]) if gpus else 1
        left = memory_gib * share * GIB - float(weights.split()[0]) * GIB / width
        assert int(tokens) == pytest.approx(
            (left - GPU_OVERHEAD_BYTES) * width / token_bytes, rel=0.01
        )


def test_there_is_a_table() -> None:
    assert len(list(rows())) >= 4
