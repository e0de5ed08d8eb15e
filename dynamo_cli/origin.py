"""Under which host names and from which web pages the server may be used (CORS). Pure.

A browser sends whatever a web page asks it to send, also to this machine. Two headers tell where a
request comes from, and no page can forge them:

    Host     the name by which the server was addressed. In DNS rebinding this is the name of the
             attacker's page, which resolves to this machine.
    Origin   the site of the page, sent if it is another site or the request may change something.

Programs other than browsers send no Origin and are not restricted.
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
    """Checks the Host and Origin of requests.

    Args:
        rules: the allowed hosts and origins, and the CORS options.
        listening: the address that the server listens on. If it is a loopback address, the names of
            loopback are allowed as hosts besides those of the rules; else any host is allowed if
            the rules have none.
    """

    def __init__(self, rules: OriginRules, listening: str) -> None:
        self._rules = rules
        hosts = (*LOOPBACK, listening, *rules.hosts) if is_loopback(listening) else rules.hosts
        self._hosts = frozenset(name_of(host) for host in hosts or (ANY,))
        self._origins = frozenset(origin.rstrip("/").lower() for origin in rules.origins)

    def check(self, headers: Mapping[str, str]) -> None:
        """Raises `Forbidden` unless the host name and the origin of a request are allowed."""
        host, origin = headers.get("Host"), headers.get("Origin")
        if host is not None and not self._is_ours(name_of(host)):
            raise Forbidden(
                f"this server may not be used under the host name {name_of(host)[:100]!a}; "
                "to allow that name, start the server with --allowed-hosts."
            )
        if origin is not None and self._is_foreign(host, origin) and not self._is_welcome(origin):
            raise Forbidden(
                f"web pages from {origin[:100]!a} may not use this server; "
                "to allow them, start the server with --allowed-origins."
            )

    def _is_ours(self, name: str) -> bool:
        return (
            ANY in self._hosts
            or name in self._hosts
            or any(known[:2] == "*." and name.endswith(known[1:]) for known in self._hosts)
        )

    def _is_foreign(self, host: str | None, origin: str) -> bool:
        """Whether a page is not served by this server."""
        parts = _split(origin)
        if host is None or parts is None:
            return True  # also "null", the origin of a page without an address
        scheme, name, port = parts
        own = _split(f"{scheme}://{host}")
        if own is None or own[2] != port:
            return True
        # All loopback names are this server.
        return own[1] != name and not (is_loopback(own[1]) and is_loopback(name))

    def _is_welcome(self, origin: str) -> bool:
        return ANY in self._origins or origin.lower() in self._origins

    def answer_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The CORS headers of an answer; none unless the origin is one of the allowed."""
        origin, rules = headers.get("Origin"), self._rules
        if origin is None or not self._is_welcome(origin):
            return {}
        told = {"Access-Control-Allow-Origin": ANY}
        # A browser rejects "*" for requests with cookies.
        if ANY not in self._origins or rules.credentials or "Cookie" in headers:
            told = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}
        if rules.credentials:
            told["Access-Control-Allow-Credentials"] = "true"
        return told

    def preflight(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of the answer to a CORS preflight request."""
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
    """Whether a request is a CORS preflight, which browsers send without a key."""
    return (
        method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers
    )


def check_json(headers: Mapping[str, str]) -> None:
    """Raises `UnsupportedMediaType` unless the content type is JSON.

    Browsers send bodies with the types of forms, or without a type, for any page and without a
    preflight. Without an Origin the type may be missing, since programs often leave it out.
    """
    given = headers.get("Content-Type")
    if given is None and "Origin" not in headers:
        return
    if (given or "").partition(";")[0].strip().lower() != JSON:
        raise UnsupportedMediaType(
            f"the content type must be JSON: send the header 'Content-Type: {JSON}' "
            f"(curl: -H 'Content-Type: {JSON}')."
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def name_of(authority: str) -> str:
    """The host of an authority: ``Host:8181`` -> ``host``; IPv6 addresses without brackets."""
    text = authority.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    # With several colons it is an IPv6 address without a port.
    name = text if text.count(":") > 1 else text.partition(":")[0]
    return name.rstrip(".")


def _split(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of a URL; None if it is not valid."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname.rstrip("."), port or _PORTS[parts.scheme]
