"""The API key that a command sends to a server: where it comes from, and what to do without it.
Pure."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLE = "DYNAMO_LLM_API_KEY"
VLLM_VARIABLE = "VLLM_API_KEY"

UNAUTHORIZED = 401
"""Status of an answer that asks for a key."""

REMEDY = f"give one of its keys with --api-key, or in the variable {VARIABLE}"


def given_by(environment: Mapping[str, str]) -> str:
    """Return the first key that the environment gives; empty if it gives none."""
    given = environment.get(VARIABLE, "").partition(",")[0]
    return given or environment.get(VLLM_VARIABLE, "")


def refused(url: str, *, sent: bool) -> str:
    """Say what to do about a server that answers with `UNAUTHORIZED`.

    Args:
        url: its address.
        sent: whether it was sent a key.
    """
    why = "does not accept this API key" if sent else "wants an API key"
    return f"{url} {why}: {REMEDY}."
