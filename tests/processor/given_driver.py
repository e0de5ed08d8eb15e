"""Packs outputs of one stream, and reads them again: a program, since the package needs vLLM."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

from dynamo_cli.engines.vllm.front.given import OutputPacker, groups
from tests.support.driver import tell


def output(*parts: tuple[int, list[int], str | None, Any], cached: int = 0) -> Any:
    made = [
        SimpleNamespace(index=index, token_ids=tokens, finish_reason=finish, stop_reason=reason)
        for index, tokens, finish, reason in parts
    ]
    return SimpleNamespace(outputs=made, num_cached_tokens=cached, num_cache_creation_tokens=None)


def main() -> None:
    given, packed = OutputPacker(), []
    for call, one in (
        (0, output((0, [5], None, None), cached=7)),
        (0, output((0, [6], None, None))),
        (0, output((1, [], None, None), (0, [7, 8], None, None))),
        (3, output((0, [1], None, None), cached=2)),
        (0, output((0, [9], "stop", 9))),
        (0, output((1, [10], "stop", "a word"))),
        (3, output((0, [2**31 - 1], "length", None))),
    ):
        given.add(call, one)
        packed.append(given.take())
    assert given.take() == b""
    read = [[dataclasses.asdict(part) for part in group] for group in groups(b"".join(packed))]
    tell({"sizes": [len(one) for one in packed], "groups": read})


if __name__ == "__main__":
    main()
