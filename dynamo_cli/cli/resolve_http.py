"""From where browsers may use the server, as typed. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlsplit

from dynamo_cli.config import ANY, OriginRules
from dynamo_cli.errors import UsageError

NULL = "null"
"""The origin of pages without an address."""


def origin_rules(
    hosts: Sequence[str],
    origins: Sequence[str],
    methods: Sequence[str],
    headers: Sequence[str],
    *,
    credentials: bool,
) -> OriginRules:
    """Words as typed, or lists in JSON as vLLM takes them.

    Raises:
        UsageError: one that is neither, or that cannot be what it should be.
    """
    given = OriginRules(
        hosts=listed("--allowed-hosts", hosts),
        origins=listed("--allowed-origins", origins),
        methods=listed("--allowed-methods", [word.upper() for word in methods] or [ANY]),
        headers=listed("--allowed-headers", headers or [ANY]),
        credentials=credentials,
    )
    for host in given.hosts:
        if "/" in host or not host:
            raise UsageError(f"--allowed-hosts takes names like chat.example.com, not {host!r}.")
    for origin in given.origins:
        _check_origin(origin)
    if not given.origins and (credentials or methods or headers):
        raise UsageError(
            "--allowed-methods, --allowed-headers and --allow-credentials belong to "
            "--allowed-origins."
        )
    return given


def _check_origin(origin: str) -> None:
    if origin in (ANY, NULL):
        return
    try:
        parts = urlsplit(origin)
        fine = bool(parts.scheme and parts.hostname) and not (parts.path.strip("/") or parts.query)
    except ValueError:
        fine = False
    if not fine:
        raise UsageError(
            f"--allowed-origins takes addresses like https://chat.example.com, or {ANY}; "
            f"not {origin!r}."
        )


def listed(option: str, words: Sequence[str]) -> tuple[str, ...]:
    """The words; those of a list in JSON one by one."""
    # A variable gives such a list in pieces, since commas part its words.
    text = ",".join(words)
    if not text.lstrip().startswith("["):
        return tuple(words)
    try:
        lists = json.loads(f"[{text}]")
        found = [word for words_ in lists for word in words_]
    except (ValueError, TypeError):
        found = [None]
    if not all(isinstance(word, str) for word in found):
        raise UsageError(f'{option} takes words, or a list of them in JSON like \'["a", "b"]\'.')
    return tuple(found)
