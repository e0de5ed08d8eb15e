"""What is said of a value that an option does not take: the option, the value, what it takes."""

from __future__ import annotations

from typing import Any

import typer

SWITCH, WHOLE, NUMBER = "true or false", "a whole number", "a number"


class NumberTooLarge(typer.BadParameter):
    """A number is larger than the largest one that an option takes.

    Args:
        value: the number.
        most: the largest one.
    """

    def __init__(self, value: float, most: float) -> None:
        super().__init__(f"{value:.15g} is more than {most:.15g}")
        self.value = value
        self.most = most


def explain(error: typer.TyperException, param: Any = None, where: str = "") -> str:
    """An error of the command line, or of a setting that is read as if typed, in a sentence.

    Args:
        param: the option, if the error does not know it.
        where: the setting, such as a variable; empty for an option on the command line.
    """
    if not isinstance(error, typer.BadParameter):
        return error.format_message()
    param = error.param or param
    where = where or (_flags(param) if param else "")
    if isinstance(error, NumberTooLarge):
        return _told(where, param, str(error.value), error.most)
    # The cause is pydantic's ValidationError. Importing that to compare would slow down --help.
    errors = getattr(error.__cause__, "errors", None)
    wrong = errors()[0] if errors else None
    if wrong is None:
        return error.format_message()
    if wrong["type"] == "value_error":
        return f"{where}: {error.message.removeprefix('Value error, ').rstrip('.')}."
    return _told(where, param, str(wrong["input"]), getattr(param, "max", None))


def _told(where: str, param: Any, value: str, most: float | None) -> str:
    annotation = param.type_descriptor.annotation
    kind = SWITCH if annotation is bool else WHOLE if annotation is int else NUMBER
    return f"{where} takes {kind}{_bounds(getattr(param, 'min', None), most)}; not {value!r}."


def _bounds(least: float | None, most: float | None) -> str:
    if least is None or most is None:
        return "" if least is None else f" of at least {least:.15g}"
    return f" from {least:.15g} to {most:.15g}"


def _flags(param: Any) -> str:
    """The names of an option, or that of an argument."""
    return " / ".join(param.opts) if param.param_type_name == "option" else param.name.upper()
