"""What vLLM makes ids and times with, in a program of its own."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import vllm
from vllm import utils

from dynamo_cli.engines.vllm.front import identity
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from tests.support.driver import tell

STREAMED = ("openai/chat_completion", "openai/completion", "openai/responses", "anthropic")
RANDOM = re.compile(r"\bsecrets\.|\buuid\d?\.uuid|\brandom\.|(?<!_)\bchoices\(|os\.urandom")


def made(seed: bytes, created_s: float) -> list[object]:
    """Ids and a time, as a request makes them."""
    current_trace.set(RequestTrace("r", seed=seed, created_s=created_s))
    anthropic = sys.modules["vllm.entrypoints.anthropic.serving"]
    chat = sys.modules["vllm.entrypoints.openai.chat_completion.serving"]
    mistral = importlib.import_module("vllm.parser.mistral")
    return [
        *(utils.random_uuid() for _ in range(2)),
        anthropic.uuid.uuid4().hex,
        "".join(mistral.choices("abcdefgh", k=9)),
        chat.time.time(),
    ]


def files(word: str) -> list[str]:
    """The modules that stream or parse answers and use this word."""
    root = Path(vllm.__file__).parent
    folders = [*(root / "entrypoints" / name for name in STREAMED)]
    folders += [root / "tool_parsers", root / "reasoning", root / "parser"]
    found = []
    for file in sorted(file for folder in folders for file in folder.rglob("*.py")):
        if re.search(word, file.read_text()):
            found.append(".".join(("vllm", *file.relative_to(root).with_suffix("").parts)))
    return found


def main() -> None:
    identity.install()
    identity.install()
    tell(
        {
            "same": [made(b"a" * 16, 5.5), made(b"a" * 16, 5.5)],
            "other": made(b"b" * 16, 5.5),
            "random": [made(b"", 0.0), made(b"", 0.0)],
            "timed": files(r"\btime\.time\("),
            "random_in": files(RANDOM.pattern),
            "known": {"timed": identity.TIMED, "named": identity.NAMING + identity.CHOOSING},
        }
    )


if __name__ == "__main__":
    main()
