"""Checks that a chat template is valid Jinja: with an invalid one, a server cannot chat."""

from __future__ import annotations

import re
from pathlib import Path

from dynamo_cli.errors import ModelError
from dynamo_cli.host import oserrors

_GENERATION = re.compile(r"{%-?\s*(end)?generation\s*-?%}")
"""A tag that transformers adds to Jinja; the text between two of them is ordinary Jinja."""


def check_file(path: Path) -> None:
    """Like `check`, for a template in a file."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ModelError(oserrors.explain(error)) from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is not UTF-8 text, so not a chat template.") from error
    check(text, str(path))


def check(text: str, name: str) -> None:
    """Parse a template.

    Args:
        name: name of the template for the error message.

    Raises:
        ModelError: it is not valid Jinja.
    """
    from jinja2 import TemplateSyntaxError  # noqa: PLC0415 - help and version need none of it
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        environment.parse(_GENERATION.sub("", text))
    except TemplateSyntaxError as error:
        raise ModelError(
            f"{name} is not a Jinja template: {error.message} (line {error.lineno})."
        ) from error
