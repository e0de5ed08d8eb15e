"""Variables of vLLM's own server that work here too.

vLLM itself reads all its other variables, in the processes that run it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

import typer

from dynamo_cli.api_key import VLLM_VARIABLE
from dynamo_cli.cli import settings
from dynamo_cli.config import DEFAULT_KEEPALIVE_S
from dynamo_cli.errors import UsageError
from dynamo_cli.plan import limits

KEEPALIVE = "VLLM_HTTP_TIMEOUT_KEEP_ALIVE"


def add_api_key(
    context: typer.Context, param: typer.CallbackParam, value: list[str] | None
) -> list[str]:
    """The callback of ``--api-key``: adds the variable's key, unless one was typed, as in vLLM."""
    source = context.get_parameter_source(str(param.name))
    key = os.environ.get(VLLM_VARIABLE, "")
    given = list(value or ())
    if key in ("", *given) or (source is not None and source.name == "COMMANDLINE"):
        return given
    if not given and isinstance(context.obj, settings.Settings):
        context.obj.origins[str(param.name)] = settings.Origin(settings.ENVIRONMENT, VLLM_VARIABLE)
    return [*given, key]


def keepalive_s(environment: Mapping[str, str]) -> float:
    """Seconds after which an idle connection is closed.

    Raises:
        UsageError: the variable is not such a number.
    """
    text = environment.get(KEEPALIVE, "")
    if not text:
        return DEFAULT_KEEPALIVE_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= limits.MAX_SECONDS:
        raise UsageError(
            f"{KEEPALIVE} is a number of seconds above 0 and at most {limits.MAX_SECONDS:.0f}, "
            f"not {text!r}."
        )
    return seconds
