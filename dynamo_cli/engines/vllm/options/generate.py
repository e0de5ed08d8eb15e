"""Reads the options of the installed vLLM, for `declared.py`, which must not import vLLM.

``python -m dynamo_cli.engines.vllm.options.generate`` writes the file of the installed release.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping

import msgspec
import vllm.config
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.utils.argparse_utils import FlexibleArgumentParser

from dynamo_cli.engines.vllm import versions
from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.engines.vllm.options.declared import MANY, ONE, VllmOption
from dynamo_cli.engines.vllm.options.values import ValueType

_CPU = "cpu"
"""If this is among the choices of an option, the choices are devices. Devices depend on the build
of vLLM, but the file is the same for all builds. So such values are checked by vLLM itself."""

_BOUNDS = {"ge": "at_least", "gt": "above", "le": "at_most", "lt": "below"}


def generate() -> bytes:
    """The content that the file of the installed release should have."""
    return msgspec.json.format(msgspec.json.encode(_read_parser()), indent=1) + b"\n"


def changed() -> list[str]:
    """Names of options in which the installed vLLM differs from the file of its release."""
    here = {option.flags[0]: option for option in _read_parser()}
    there = {option.flags[0]: option for option in declared.known().values()}
    return sorted(name for name in here | there if here.get(name) != there.get(name))


def _read_parser() -> list[VllmOption]:
    parser = versions.module("cli_args").make_arg_parser(FlexibleArgumentParser())
    parsers = _parsers()
    flags: dict[argparse.Action, list[str]] = {}
    # `option_strings` lacks spellings that vLLM still takes but does not show.
    for flag, action in parser._option_string_actions.items():
        flags.setdefault(action, []).append(flag)
    return [
        _option(action, flags[action], group.title or "", parsers)
        for group in parser._action_groups
        for action in group._group_actions
        if action.option_strings and action.dest != "help"
    ]


def _parsers() -> dict[str, list[str]]:
    """Names of the parsers of tool calls and reasoning, by the option that chooses one."""
    return {
        "tool_call_parser": sorted(ToolParserManager.list_registered()),
        "reasoning_parser": sorted(ReasoningParserManager.list_registered()),
    }


def _option(
    action: argparse.Action, flags: list[str], group: str, parsers: Mapping[str, list[str]]
) -> VllmOption:
    """An `argparse.Action` as a `VllmOption`."""
    # Where any word is allowed, vLLM shows the known ones as a metavar, not as choices.
    shown: list[str] = action.metavar if isinstance(action.metavar, list) else []
    choices = [str(choice) for choice in action.choices or ()]
    # argparse accepts an empty list for "*", but no option of vLLM has a use for one.
    values = {"None": ONE, "*": MANY}.get(str(action.nargs), str(action.nargs))
    return VllmOption(
        flags=sorted(flags, key=lambda flag: not flag.startswith("--")),
        values=values,
        group=group,
        choices=[] if _CPU in choices else choices,
        names=parsers.get(action.dest, [str(name) for name in shown]),
        kind=ValueType.WORD if action.choices else _kind(action),
        default=str(action.default) if isinstance(action.default, str | int | float) else "",
        help=" ".join((action.help or "").split()).split(". ")[0].rstrip("."),
        **dict(_bounds(group, action.dest)),
    )


def _kind(action: argparse.Action) -> ValueType:
    """Find out by trial which values the reader of an option takes: most readers are closures."""
    if not callable(action.type):
        return ValueType.WORD
    word, object_, thousands, auto, real, whole = (
        _reads(action.type, text) for text in ("word", "{bad}", "4k", "auto", "1.5", "1")
    )
    if word:
        return ValueType.WORD if object_ else ValueType.WORD_OR_OBJECT
    if thousands:
        return ValueType.LENGTH if auto else ValueType.SIZE
    if _reads(action.type, "{}") or not whole:
        return ValueType.OBJECT
    return ValueType.REAL if real else ValueType.WHOLE


def _reads(reader: Callable[[str], object], text: str) -> bool:
    try:
        reader(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return True


def _bounds(group: str, name: str) -> Iterator[tuple[str, float]]:
    """The bounds of a number that vLLM's configuration classes declare for pydantic."""
    fields = getattr(getattr(vllm.config, group, None), "__pydantic_fields__", {})
    for rule in fields[name].metadata if name in fields else ():
        for attribute, ours in _BOUNDS.items():
            if (bound := getattr(rule, attribute, None)) is not None:
                yield ours, float(bound)


if __name__ == "__main__":
    declared.file_of(versions.release()).write_bytes(generate())
