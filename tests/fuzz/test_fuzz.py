"""A short run of the fuzzer, and tests that it recognizes each fault."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from tests.fuzz import mutations
from tests.fuzz.__main__ import fuzz
from tests.fuzz.run import LEAST, report
from tests.fuzz.shot import Fault, judge

SECONDS = 5.0
REQUESTS = 250
PATIENCE_S = 60.0
"""How long an answer may take: long, since busy cores are slow, and a real hang never ends."""


@pytest.mark.engine
@pytest.mark.parametrize("shape", ["mock+prefill", "tiny+prefill"])
def test_no_request_harms_another(shape: str) -> None:
    outcome = fuzz(shape, REQUESTS, seed=2, hang_s=PATIENCE_S, limit_s=SECONDS)
    assert outcome.good, "\n".join(report(outcome))
    assert outcome.requests >= LEAST
    assert outcome.statuses[200] > 2
    assert outcome.statuses[400] > 5


OPENAI = {"error": {"message": "no", "type": "invalid_request_error", "code": None}}
ANTHROPIC = {"type": "error"} | OPENAI
OURS = b'data: {"error": {"message": "no", "type": "x", "code": 500}}\n\ndata: [DONE]\n\n'
THEIRS = b'data: {"error": {"message": "no", "type": "x", "code": 400}}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("path", "status", "body", "fault"),
    [
        ("/v1/completions", 200, b"{}", None),
        ("/v1/completions", 503, b"{}", Fault.SERVER_ERROR),
        ("/v1/completions", 400, json.dumps(OPENAI).encode(), None),
        ("/v1/completions", 400, b"bad request", Fault.SHAPE),
        ("/v1/completions", 400, b'{"detail": "no"}', Fault.SHAPE),
        ("/v1/messages", 400, json.dumps(OPENAI).encode(), Fault.SHAPE),
        ("/v1/messages", 400, json.dumps(ANTHROPIC).encode(), None),
        ("/v1/completions", 200, OURS, Fault.ERROR_EVENT),
        ("/v1/completions", 200, THEIRS, None),
        ("/v1/completions", 400, b"Traceback (most recent call last)", Fault.TRACEBACK),
    ],
)
def test_faults_are_seen(path: str, status: int, body: bytes, fault: Fault | None) -> None:
    assert judge(path, status, body) is fault


def test_a_seed_gives_the_same_requests_of_every_kind() -> None:
    first, again, other = (list(itertools.islice(mutations.shots(seed), 600)) for seed in (1, 1, 2))
    assert first == again != other
    kinds = Counter(shot.kind for shot in first)
    assert kinds.keys() == {kind.__name__ for kind, _ in mutations.KINDS}
    for shot in first:
        head, end, _ = shot.raw.partition(b"\r\n\r\n")
        assert end
        assert head.count(b"\r\nHost: ") == 1
