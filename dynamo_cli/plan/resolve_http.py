"""Resolves the options of HTTP: where the server listens and who may use it. Pure."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from dynamo_cli.config import ANY, OriginRules
from dynamo_cli.errors import UsageError

OTLP_TRACES = "/v1/traces"
NUMBERS = re.compile(r"[\d.]+")
"""What can only be an IPv4 address."""

NULL = "null"
"""The origin that browsers send for pages without an address."""


def listen_host(host: str) -> str:
    """Check ``--host``: an address or a name of this machine. Listening tests whether it exists.

    Raises:
        UsageError: it can be neither.
    """
    bare = host.removeprefix("[").removesuffix("]")
    if not _is_host(bare):
        raise UsageError(
            "--host is an address or a name of this machine, such as 0.0.0.0, without a port "
            f"(--http-port); not {host!r}."
        )
    return bare


def _is_host(text: str) -> bool:
    if ":" in text or NUMBERS.fullmatch(text):
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
    return bool(text) and "/" not in text and text.isprintable() and not set(text) & set(" *?@[]")


def api_keys(keys: Sequence[str]) -> tuple[str, ...]:
    """Check keys, which clients send in a header.

    Raises:
        UsageError: a key cannot be sent, or is empty, as when a shell variable is not set.
    """
    for key in keys:
        if not key:
            raise UsageError("--api-key is empty; leave it out to let everybody in.")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise UsageError("--api-key takes ASCII letters, digits and signs, without spaces.")
    return tuple(keys)


def otlp_endpoint(url: str) -> str:
    """The URL for traces; an address without a path gets the standard path of OTLP."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port out of range, or an incomplete IPv6 address
        fine = False
    if not fine:
        raise UsageError(
            f"--otlp-endpoint is the URL of an OTLP/HTTP receiver, such as "
            f"http://localhost:4318; not {url!r}."
        )
    return url.rstrip("/") + OTLP_TRACES if parts.path in ("", "/") else url


def origin_rules(
    hosts: Sequence[str],
    origins: Sequence[str],
    methods: Sequence[str],
    headers: Sequence[str],
    *,
    credentials: bool,
) -> OriginRules:
    """Check the rules for browsers; each option takes words, or JSON lists as in vLLM.

    Raises:
        UsageError: a value is malformed, or belongs to an option that is not given.
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
            "--allowed-methods, --allowed-headers and --allow-credentials work only with "
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
    """The given words; a JSON list is split into its words."""
    # A list in a variable arrives in pieces, because its words are separated by commas.
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
