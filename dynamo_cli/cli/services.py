"""Variables that Kubernetes and ``docker run --link`` set for a service named ``dynamo-llm``. Pure.

A service named ``dynamo-llm-x`` puts these into every container that starts after it:

    DYNAMO_LLM_X_SERVICE_HOST=10.0.0.7          DYNAMO_LLM_X_PORT=tcp://10.0.0.7:8181
    DYNAMO_LLM_X_SERVICE_PORT=8181              DYNAMO_LLM_X_PORT_8181_TCP=tcp://10.0.0.7:8181
    DYNAMO_LLM_X_SERVICE_PORT_HTTP=8181         DYNAMO_LLM_X_PORT_8181_TCP_PROTO=tcp (_PORT, _ADDR)

They share our prefix and are no settings. One can even have a setting's name: a service
``dynamo-llm-http`` sets ``DYNAMO_LLM_HTTP_PORT``, and only the value tells. Names and values have
to fit both, so that a misspelt setting stays an error.
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
        # Docker's alone: /THIS/ALIAS, and whatever the environment over there is.
        (r"(.+_)?NAME", r"/[^/]+/[^/]+"),
        (r"(.+_)?ENV_.+", r".*"),
    )
)


def tells_of_a_service(name: str, value: str, *, setting: bool) -> bool:
    """Whether such a variable is about a service.

    Args:
        name: without ``DYNAMO_LLM_``.
        setting: a setting has this name: only an address of a service is no value of one.
    """
    if _URL.fullmatch(value) and "PORT" in name.split("_"):
        return True
    if setting:
        return False
    return any(names.fullmatch(name) and values.fullmatch(value) for names, values in _FORMS)
