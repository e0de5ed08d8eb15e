"""Requests that schemathesis derives from a server's /openapi.json, valid and invalid ones."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

import schemathesis

# Imported now: deep within calls Python 3.11 cannot parse what schemathesis imports later.
import schemathesis.specs.openapi.adapter.v2
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode

from tests.fuzz.mutations import wire
from tests.fuzz.shot import Shot

BATCH = 50
KIND = "schema"
ENDLESS = ("/dynamo/stream",)
"""Paths whose answers end only when the client leaves."""


def shots(document: Any, number: int, key: str = "") -> Iterator[Shot]:
    """Yield requests without end; the same number gives the same ones.

    Args:
        document: the OpenAPI document.
    """
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    cases = st.one_of(
        *(one.as_strategy(generation_mode=mode) for one in operations for mode in modes)
    )
    while True:
        yield from (_shot(case, key) for case in _batch(cases, number))
        number += 1


def _batch(cases: st.SearchStrategy[Case], number: int) -> list[Case]:
    found: list[Case] = []

    @seed(number)
    @settings(
        max_examples=BATCH,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def keep(case: Case) -> None:
        found.append(case)

    # schemathesis cannot check some of its own bodies; those that it made before are good.
    with contextlib.suppress(ValueError):
        keep()
    return found


def _shot(case: Case, key: str) -> Shot:
    path = case.path
    for name, value in (case.path_parameters or {}).items():
        path = path.replace("{" + name + "}", quote(str(value), safe=""))
    if case.query:
        path += "?" + urlencode(case.query, doseq=True, errors="replace")
    headers = [(name, _header(value)) for name, value in (case.headers or {}).items()]
    raw = wire(case.method.upper(), path, _body(case.body), headers, key)
    return Shot(KIND, raw, leave=case.path in ENDLESS)


def _header(value: Any) -> bytes:
    return str(value).encode("utf-8", "surrogateescape").replace(b"\r", b"").replace(b"\n", b"")


def _body(body: Any) -> bytes:
    if isinstance(body, bytes):
        return body
    return b"" if type(body).__name__ == "NotSet" else json.dumps(body).encode()
