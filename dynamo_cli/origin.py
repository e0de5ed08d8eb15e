"""By which name and from which web pages a server may be used. Pure.

A browser sends what any web page tells it to, also to this machine. Two headers give the page away,
and no page can forge them:

    Host     by which name the server was called. A page whose own name was made to point here (DNS
             rebinding) calls it by that name.
    Origin   the page itself, where it is another site's or wants to change something.

Programs that are no browsers send no Origin and are not held up.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

from dynamo_cli.config import ANY, LOOPBACK, OriginRules
from dynamo_cli.errors import Forbidden, UnsupportedMediaType

JSON = "application/json"
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
PREFLIGHT_MAX_AGE_S = 600
_PORTS = {"http": 80, "https": 443}


class OriginGate:
    """The rules of one server.

    Args:
        rules: what was given.
        listening: the address at which it listens. Where only this machine reaches it, it goes by
            this machine's names; elsewhere by any, unless some were given.
    """

    def __init__(self, rules: OriginRules, listening: str) -> None:
        self._rules = rules
        hosts = (*LOOPBACK, listening, *rules.hosts) if is_loopback(listening) else rules.hosts
        self._hosts = frozenset(name_of(host) for host in hosts or (ANY,))
        self._origins = frozenset(origin.rstrip("/").lower() for origin in rules.origins)

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises `Forbidden` unless the server may be used by this name and from this page."""
        host, origin = headers.get("Host"), headers.get("Origin")
        if host is not None and not self._is_ours(name_of(host)):
            raise Forbidden(
                f"this server does not go by the name {name_of(host)[:100]!a}; "
                "if it should, start it with --allowed-hosts."
            )
        if origin is not None and self._is_foreign(host, origin) and not self._is_welcome(origin):
            raise Forbidden(
                f"pages of {origin[:100]!a} may not use this server; "
                "if they should, start it with --allowed-origins."
            )

    def _is_ours(self, name: str) -> bool:
        return (
            ANY in self._hosts
            or name in self._hosts
            or any(known[:2] == "*." and name.endswith(known[1:]) for known in self._hosts)
        )

    def _is_foreign(self, host: str | None, origin: str) -> bool:
        """The page is not this server's own."""
        parts = _split(origin)
        if host is None or parts is None:
            return True  # "null", of a page without an address, among them
        scheme, name, port = parts
        own = _split(f"{scheme}://{host}")
        if own is None or own[2] != port:
            return True
        # All names of this machine are one server.
        return own[1] != name and not (is_loopback(own[1]) and is_loopback(name))

    def _is_welcome(self, origin: str) -> bool:
        return ANY in self._origins or origin.lower() in self._origins

    def answer_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """What lets a page that may ask read the answer; nothing for others."""
        origin, rules = headers.get("Origin"), self._rules
        if origin is None or not self._is_welcome(origin):
            return {}
        told = {"Access-Control-Allow-Origin": ANY}
        # A browser takes no "*" together with cookies.
        if ANY not in self._origins or rules.credentials or "Cookie" in headers:
            told = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if rules.credentials:
            told["Access-Control-Allow-Credentials"] = "true"
        return told

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The answer to a browser's question whether a page may ask what it wants to ask."""
        rules = self._rules
        methods = METHODS if ANY in rules.methods else rules.methods
        wanted = headers.get("Access-Control-Request-Headers", "")
        return {
            **self.answer_headers(headers),
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": wanted
            if ANY in rules.headers
            else ", ".join(rules.headers),
            "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE_S),
        }


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """It asks for nothing itself, and has no key."""
    return (
        method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers
    )


def check_json(headers: Mapping[str, str]) -> None:
    """Raises `UnsupportedMediaType` unless the body says that it is JSON.

    Any page may send the types that forms have without asking first, and no type at all; programs
    often leave it out.
    """
    given = headers.get("Content-Type")
    if given is None and "Origin" not in headers:
        return
    if (given or "").partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType(
            f"the body must be JSON and say so: send the header 'Content-Type: {JSON}' "
            f"(curl: -H 'Content-Type: {JSON}')."
        )


def is_loopback(host: str) -> bool:
    """Only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def name_of(authority: str) -> str:
    """``Host:8181`` -> ``host``; IPv6 addresses without brackets."""
    text = authority.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    # An address of several colons is one without a port.
    name = text if text.count(":") > 1 else text.partition(":")[0]
    return name.rstrip(".")


def _split(url: str) -> tuple[str, str, int] | None:
    """Scheme, name and port; None when it is no address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname.rstrip("."), port or _PORTS[parts.scheme]
