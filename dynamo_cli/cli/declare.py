"""How commands and their options are declared for Typer, in one way for all of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

from dynamo_cli.cli.bad_value import NumberTooLarge

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)
else:
    Options = TypeVar("Options")

HELP_WIDTH = 100
"""Columns that help pages use at most."""


def application(**more: Any) -> typer.Typer:
    """A Typer application for one command or one group of commands.

    Args:
        more: further arguments of `typer.Typer`; `context_settings` are added to ours.
    """
    settings = {**more.pop("context_settings", {}), "max_content_width": HELP_WIDTH}
    return typer.Typer(
        add_completion=False, rich_markup_mode="rich", context_settings=settings, **more
    )


def option(
    *names: str,
    help: str,  # noqa: A002 - as Typer calls it
    panel: str | None = None,
    most: float | None = None,
    **more: Any,
) -> Any:
    """An option of a command.

    Args:
        names: its flags; the first one names the setting.
        panel: the part of the help page in which it is listed.
        most: the largest number that it takes. Typer's own ``max`` would fill the help page with
            large numbers.
        more: further arguments of `typer.Option`.
    """
    if most is not None:
        more["callback"] = _at_most(most)
    return typer.Option(*names, rich_help_panel=panel, help=help, **more)


def _at_most(bound: float) -> Callable[[float | None], float | None]:
    def check(value: float | None) -> float | None:
        if value is not None and value > bound:
            raise NumberTooLarge(value, bound)
        return value

    return check


def takes(
    options: type[Options],
) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Give a command its options as one dataclass, instead of as dozens of parameters.

    Typer reads the parameters of a command from its signature, so the command gets one in which
    each field of the dataclass is a parameter.
    """
    hints = get_type_hints(options, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(options)
    ]

    def decorate(command: Callable[[Options], None]) -> Callable[..., None]:
        @wraps(command)
        def with_parameters(**given: Any) -> None:
            command(options(**given))

        with_parameters.__annotations__ = hints
        with_parameters.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return with_parameters

    return decorate
