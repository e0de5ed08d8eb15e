"""Recognizes variables of Kubernetes and ``docker run --link`` for services ``dynamo-llm*``. Pure.

A service named ``dynamo-llm-x`` puts these into every container that starts after it:

    DYNAMO_LLM_X_SERVICE_HOST=10.0.0.7          DYNAMO_LLM_X_PORT=tcp://10.0.0.7:8181
    DYNAMO_LLM_X_SERVICE_PORT=8181              DYNAMO_LLM_X_PORT_8181_TCP=tcp://10.0.0.7:8181
    DYNAMO_LLM_X_SERVICE_PORT_HTTP=8181         DYNAMO_LLM_X_PORT_8181_TCP_PROTO=tcp (_PORT, _ADDR)

They have the prefix of our settings, but are not settings. One can even have the name of a setting:
a service ``dynamo-llm-http`` sets ``DYNAMO_LLM_HTTP_PORT``, and only the value tells which it is.
Both name and value have to match, so that a misspelled setting remains an error.
"""

from __future__ import annotations

import re

_ADDRESS = r"[0-9a-fA-F.:]+"
_PORT = r"(.+_)?PORT_\d+_(TCP|UDP|SCTP)"
_URL = re.compile(r"(tcp|udp|sctp)://.+")
_FORMS = tuple(
    (re.compile(name), re.compile(value, re.DOTALL))
    for name, value in (
        (_PORT + "_PROTO", r"tcp|udp|sctp"),
        (_PORT + "_PORT", r"\d+"),
        (_PORT + "_ADDR", _ADDRESS),
        (r"(.+_)?SERVICE_HOST", _ADDRESS),
        (r"(.+_)?SERVICE_PORT(_[A-Z0-9_]+)?", r"\d+"),
        # Docker only: NAME is /THIS/ALIAS, ENV_* is the environment of the other container.
        (r"(.+_)?NAME", r"/[^/]+/[^/]+"),
        (r"(.+_)?ENV_.+", r".*"),
    )
)


def tells_of_a_service(name: str, value: str, *, setting: bool) -> bool:
    """Whether a variable describes a service, and so is not a setting.

    Args:
        name: its name without ``DYNAMO_LLM_``.
        setting: whether a setting has this name; then only the address of a service counts.
    """
    if _URL.fullmatch(value) and "PORT" in name.split("_"):
        return True
    if setting:
        return False
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _FORMS)
