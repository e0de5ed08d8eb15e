"""Record what a server answers to a fixed list of requests, and compare two recordings.

    python -m tests.benchmarks.conformance record FILE [--engine mock] [--command DYNAMO_LLM]
    python -m tests.benchmarks.conformance compare BEFORE AFTER

`record` starts a server of the tiny model with `--command` (of another checkout, for example) and
writes status, headers and body of each answer as JSON. Bodies are kept byte for byte but for what
differs from run to run: ids, times, ports, versions, and where a stream was cut into events. Of
pages of numbers (`/health`, `/metrics`, `/dynamo/...`) the names and types are kept. `compare`
prints what differs, and exits with 1 if anything does.
"""

from __future__ import annotations

import argparse
import difflib
import http.client
import json
import math
import re
import socket
import sys
from pathlib import Path
from typing import Any

from tests.benchmarks.conformance_requests import Asked, requests
from tests.support.server import COMMAND, SMALL, Server

KEY = "sesame"
OPTIONS = (
    *("--dtype", "float32", "--max-model-len", "2048", "--block-size", "32", "--router", "kv"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--debug-headers"),
    *("--enable-admin", "--api-key", KEY, "--max-body-bytes", "200000"),
)
ENGINES = {"tiny": (*SMALL, *OPTIONS), "mock": ("--engine", "mock", *OPTIONS)}

PER_RUN = (
    (rb"\b(cmpl|chatcmpl|modelperm|resp|msg|rs|fc|call|chatcmpl-tool|tool|embd|tokn)([-_])[0-9a-zA-Z-]{6,}",
     rb"\1\2ID"),
    (rb"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", b"ID"),
    (rb'("(created|created_at|completed_at)": ?)[0-9.]+', rb"\1TIME"),
    (rb"(127\.0\.0\.1|localhost):[0-9]+", rb"\1:PORT"),
    (rb'"system_fingerprint": ?"[^"]*"', b'"system_fingerprint":"BUILD"'),
    (rb"/tmp/[\w./-]+|/[\w./-]+/models/tiny[\w./-]*", b"FOLDER"),
)  # fmt: skip
"""What is written instead of what no two runs have alike."""

NOT_KEPT = {"date", "content-length", "transfer-encoding"}
NUMBERS = re.compile(r"/(health|dynamo/(snapshot|decisions|timeline|stream)|version)\b")
"""Pages of which names and types matter, and no values."""

TIMEOUT_S = 60.0


class Recorded(Server):
    """One of any version: what it says of itself may have other names than ours."""

    def check_invariants(self) -> None:
        pass


def record(command: str, engine: str) -> dict[str, Any]:
    """The answers by the names of the requests."""
    recorded = type("Recorded", (Recorded,), {"command": (command,)})
    with recorded(*ENGINES[engine], fresh=True) as server:
        return {asked.name: answer(server.port, asked) for asked in requests(KEY)}


def answer(port: int, asked: Asked) -> dict[str, Any]:
    """Status, headers and body as they are kept."""
    if asked.raw:
        return {"raw": _normal(_raw(port, asked.raw)).decode("latin-1")}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(asked.method, asked.path, asked.body, asked.headers)
        response = connection.getresponse()
        if asked.events:
            body = b"".join(response.readline() for _ in range(asked.events))
        else:
            body = response.read()
    finally:
        connection.close()
    headers = {name.lower(): value for name, value in response.getheaders()}
    kept = {name: value for name, value in sorted(headers.items()) if name not in NOT_KEPT}
    return {
        "status": response.status,
        "headers": json.loads(_normal(json.dumps(kept).encode())),
        "body": _kept(asked.path, headers.get("content-type", ""), response.status, body),
    }


def _raw(port: int, sent: bytes) -> bytes:
    """All that comes until the server closes, without the date."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(sent)
        received = b""
        while data := connection.recv(1 << 16):
            received += data
    return re.sub(rb"(?i)(date|content-length): [^\r]*\r\n", b"", received)


def _normal(body: bytes) -> bytes:
    for pattern, instead in PER_RUN:
        body = re.sub(pattern, instead, body)
    return body


def _kept(path: str, kind: str, status: int, body: bytes) -> Any:
    if path == "/metrics":
        return _families(body.decode())
    if status == 200 and NUMBERS.match(path):
        text = body.removeprefix(b"data: ")
        return _shape(json.loads(text)) if text.strip().startswith((b"{", b"[")) else text.decode()
    if kind.startswith("text/event-stream"):
        return [_normal(event.encode()).decode() for event in _joined(body.decode())]
    return _normal(body).decode()


def _families(page: str) -> list[str]:
    """Help, type, and the names of the labels of each metric; no values."""
    found = {
        re.sub(r'="[^"]*"', "", line.rpartition(" ")[0]) if not line.startswith("#") else line
        for line in page.splitlines()
    }
    return sorted(found)


def _shape(value: Any) -> Any:
    """Names and types; of a list those of its first element."""
    if isinstance(value, dict):
        return {name: _shape(one) for name, one in sorted(value.items())}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def _joined(stream: str) -> list[str]:
    """The events of a stream, joined where only the text goes on: how it is cut is chance.

    So is the order of events of several choices: those of one come after those of the other.
    """
    parts = [_part(event) for event in stream.split("\n\n") if event]
    events: list[tuple[str, Any]] = []
    for head, content in sorted(parts, key=lambda part: _choice(part[1])):
        if events and (both := _together(events[-1], (head, content))) is not None:
            events[-1] = both
        else:
            events.append((head, content))
    return [f"{head}data: {_dump(content)}" for head, content in events]


def _part(event: str) -> tuple[str, Any]:
    """What stands before the data of an event, and its data."""
    head, _, data = event.rpartition("data: ")
    content = json.loads(data) if data.startswith("{") else data
    if isinstance(content, dict):
        content.pop("sequence_number", None)
    return head, content


def _choice(content: Any) -> float:
    """Its number; what belongs to none comes last."""
    choices = content.get("choices") if isinstance(content, dict) else None
    return choices[0]["index"] if choices else math.inf


def _dump(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


TEXTS = {"text", "content", "delta", "arguments", "reasoning"}


def _together(one: tuple[str, Any], two: tuple[str, Any]) -> tuple[str, Any] | None:
    """Both events as one, when the second goes on with what the first began; else None."""
    if one[0] != two[0] or _continued(one[1]) is None or _continued(one[1]) != _continued(two[1]):
        return None
    return one[0], _grown(one[1], two[1], "")


def _continued(content: Any) -> Any:
    """What an event is a part of; None when it is all of it."""
    if not isinstance(content, dict):
        return None
    if content.get("choices"):
        begins = "role" in content["choices"][0].get("delta", {})
        return None if begins else content["choices"][0]["index"]
    kind = str(content.get("type"))
    return kind if kind.endswith("delta") else None


def _grown(one: Any, two: Any, name: str) -> Any:
    """One value after the other; `name` is that of the field."""
    if isinstance(one, dict) and isinstance(two, dict):
        return {key: _grown(one.get(key), two.get(key), key) for key in one | two}
    if isinstance(one, str) and isinstance(two, str) and name in TEXTS:
        return one + two
    if isinstance(one, list) and isinstance(two, list):
        return [_grown(one[0], two[0], name)] if name == "choices" else one + two
    return one if two is None else two


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print what differs; how many answers do."""
    different = 0
    for name in before | after:
        texts = [
            json.dumps(one.get(name), indent=1, ensure_ascii=False).splitlines()
            for one in (before, after)
        ]
        if texts[0] != texts[1]:
            different += 1
            print(f"== {name}")
            print("\n".join(difflib.unified_diff(*texts, "before", "after", lineterm="", n=1)))
    print(f"{len(before | after)} answers, {different} differ")
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description="Record answers, and compare recordings.")
    does = parser.add_subparsers(dest="does", required=True)
    recording = does.add_parser("record")
    recording.add_argument("file", type=Path)
    recording.add_argument("--engine", choices=ENGINES, default="tiny")
    recording.add_argument("--command", default=COMMAND, help="the dynamo-llm to start")
    comparing = does.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    options = parser.parse_args()
    if options.does == "compare":
        recordings = (json.loads(file.read_text()) for file in (options.before, options.after))
        sys.exit(1 if compare(*recordings) else 0)
    answers = record(options.command, options.engine)
    options.file.write_text(json.dumps(answers, indent=1, ensure_ascii=False))
    print(f"{len(answers)} answers in {options.file}")


if __name__ == "__main__":
    main()
