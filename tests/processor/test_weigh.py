"""The estimated size of bodies, as a table."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dynamo_cli.engines.vllm.front import gate, weigh
from dynamo_cli.errors import InvalidRequest


def counted(value: Any) -> tuple[int, int, int, int]:
    """Count values, names, nodes and depth by a walk through the parsed body."""
    if not isinstance(value, dict | list):
        return 1, 0, 0, 0
    inner = [counted(one) for one in (value.values() if isinstance(value, dict) else value)]
    names = len(value) if isinstance(value, dict) else 0
    values, below, nodes = (sum(one[part] for one in inner) for part in range(3))
    depth = max((one[3] for one in inner), default=0)
    return values + names + 1, names + below, nodes + 1, depth + 1


@pytest.mark.parametrize("piece", [2, 3, 7, 1 << 18])
@pytest.mark.parametrize(
    "value",
    [
        {},
        {"a": 1},
        {"prompt": [1, 2, 3], "x": {"y": [[], {}, [[1]]]}},
        {"a,b:[{": 'c"],}:\\', "d": ["\\\\", '\\"', "é\n,", '"']},
        {"a": "\\" * 9, "b": ["\\" * 8, 1]},
    ],
)
def test_marks_in_strings_do_not_count(
    value: Any, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weigh, "PIECE_BYTES", piece)
    found = weigh.weigh(json.dumps(value).encode())
    values, names, nodes, depth = counted(value)
    assert (found.names, found.nodes, found.depth) == (names, nodes, depth)
    assert found.values >= values  # an empty list or object counts as if it had one value


LIMITS = gate.ModelLimits(1000)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"messages": [{}] * 20_000}, "objects and lists"),
        ({"prompt": [1] * 700_000}, "values"),
        ({f"x{one}": one for one in range(400_000)}, "values"),
    ],
)
def test_too_much_is_refused_before_it_is_read(content: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        gate.check_weight(json.dumps(content).encode(), LIMITS)


@pytest.mark.parametrize(
    "content",
    [
        {"prompt": "[{,:" * 300_000},
        {"input": [[7] * 500] * 1000},
        {"messages": [{"role": "user", "content": "a"}] * 8000},
    ],
)
def test_large_bodies_of_clients_pass(content: Any) -> None:
    gate.check_weight(json.dumps(content).encode(), LIMITS)
