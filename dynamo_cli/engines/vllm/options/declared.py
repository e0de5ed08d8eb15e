"""vLLM's engine options, known without importing vLLM, so that mistakes are reported at once.

`engine_options-RELEASE.json` holds what the parser and the configuration classes of a release know;
`generate.py` makes it. Names and numbers of values are checked here, and single values in
`values.py`. What depends on the model or on other options is checked by vLLM itself, in the
engine's process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from dynamo_cli.engines.vllm import versions
from dynamo_cli.engines.vllm.options import hints, values
from dynamo_cli.engines.vllm.options.values import ValueType
from dynamo_cli.errors import UsageError

SWITCH, ONE, MANY = "0", "1", "+"
"""Numbers of values, as `VllmOption.values` has them."""


class VllmOption(msgspec.Struct, frozen=True, omit_defaults=True):
    """An option of vLLM's server, as the file has it.

    Attributes:
        flags: all its spellings, the usual one first.
        values: number of values: ``0`` (a switch), ``1``, ``?`` (none or one), ``+`` (one or more).
        group: the part of vLLM that it configures.
        choices: all values that it may have; empty leaves the check to vLLM.
        names: the values that vLLM knows without plugins, which can add more.
        kind: how its value is read.
        at_least, above, at_most, below: bounds of a number.
        default: its default as vLLM's help shows it; empty if there is none or it is an object.
        help: the first sentence of vLLM's help.
    """

    flags: list[str]
    values: str
    group: str
    choices: list[str] = []
    names: list[str] = []
    kind: ValueType = ValueType.WORD
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    default: str = ""
    help: str = ""


class GivenOption(NamedTuple):
    """An option as it was given.

    Attributes:
        name: its first flag, whichever spelling was given.
        field: the field of its object in ``--name.field value``; else empty.
        words: the words for vLLM's parser.
    """

    name: str
    field: str
    words: tuple[str, ...]

    @property
    def values(self) -> tuple[str, ...]:
        """The values that were given."""
        _, equals, value = self.words[0].partition("=")
        return (value,) if equals else self.words[1:]


_ONE_HOST = "everything runs on this host"
_REPLICAS = "use --workers: each is an engine of its own"
_IMAGES = "processors keep images and send them whole; --mm-processor-cache-gb is the size for each"
_INSTEAD = {
    "--model": "give it once, before the engine options",
    "--host": "give it once, before the engine options",
    "--api-key": "give it once per key, before the engine options",
    **dict.fromkeys(
        (
            "--allowed-origins",
            "--allowed-methods",
            "--allowed-headers",
            "--allow-credentials",
        ),
        "give it once, before the engine options",
    ),
    "--port": "use --http-port",
    "--tensor-parallel-size": "use --worker-tp",
    "--api-server-count": "use --processors",
    "--shutdown-timeout": "use --drain-timeout",
    "--config": "give the options themselves",
    "--kv-events-config": "KV events are set up by --router",
    "--kv-transfer-config": "KV transfer is set up by --prefill-workers",
    "--otlp-traces-endpoint": "use --otlp-endpoint",
    "--mm-processor-cache-type": _IMAGES,
    "--mm-shm-cache-max-object-size-mb": _IMAGES,
    "--mm-tensor-ipc": _IMAGES,
    "--headless": _ONE_HOST,
    "--nnodes": _ONE_HOST,
    "--node-rank": _ONE_HOST,
    "--master-addr": _ONE_HOST,
    "--master-port": _ONE_HOST,
    "--grpc": "only HTTP is served",
    "--grpc-port": "only HTTP is served",
    "--uds": "only HTTP over TCP is served",
}
"""Options that are not passed on because this program sets them or cannot do it; what to do
instead.
"""

_NO_TLS = "there is no TLS here; put a proxy in front"
_INSTEAD_BY_PREFIX = {
    "--data-parallel-": _REPLICAS,
    "--dp-": _REPLICAS,
    "--ssl-": _NO_TLS,
    "--enable-ssl-": _NO_TLS,
}

_HTTP_SERVER = (
    "--uvicorn-",
    "--disable-uvicorn-",
    "--disable-access-log-",
    "--disable-fastapi-docs",
    "--enable-offline-docs",
    "--enable-request-id-headers",
    "--enable-server-load-tracking",
    "--h11-",
    "--root-path",
    "--middleware",
    "--sse-keep-alive-",
)
"""Prefixes of the options of vLLM's own HTTP server, which does not run here."""


_LEAST = {
    **dict.fromkeys(
        (
            *("--max-model-len", "--num-gpu-blocks-override", "--kv-cache-memory-bytes"),
            *("--max-cpu-loras", "--spec-tokens", "--renderer-num-workers"),
            *("--dcp-kv-cache-interleave-size", "--cp-kv-cache-interleave-size"),
            *("--cudagraph-capture-sizes", "--offload-num-in-group"),
            *("--distributed-timeout-seconds", "--cpu-distributed-timeout-seconds"),
        ),
        1.0,
    ),
    **dict.fromkeys(
        (
            *("--cpu-offload-gb", "--kv-offloading-size", "--offload-group-size"),
            "--mamba-cache-philox-rounds",
            *("--offload-prefetch-step", "--numa-bind-nodes", "--max-cudagraph-capture-size"),
        ),
        0.0,
    ),
}
"""The smallest numbers of options that vLLM checks only in the engine, if at all."""


def file_of(release: str) -> Path:
    """The file with the options of a release of vLLM, such as ``0.32``."""
    return Path(__file__).with_name(f"engine_options-{release}.json")


@cache
def known() -> dict[str, VllmOption]:
    """All options of the installed release of vLLM, by each of their flags."""
    file = file_of(versions.release())
    options = msgspec.json.decode(file.read_bytes(), type=list[VllmOption])
    return {flag: option for option in options for flag in option.flags}


def passed_on() -> list[VllmOption]:
    """All options that may be given here, each once."""
    named = {option.flags[0]: option for option in known().values()}
    return [option for name, option in named.items() if not instead(name)]


def check(tokens: Sequence[str], own_options: Iterable[str] = ()) -> tuple[str, ...]:
    """The words of the options that `parse` returns. Raises as `parse`."""
    return tuple(word for given in parse(tokens, own_options) for word in given.words)


def parse(tokens: Sequence[str], own_options: Iterable[str] = ()) -> list[GivenOption]:
    """Check the words of the command line that are not options of ours.

    Args:
        tokens: ``--key value`` or ``--key=value``, with dashes or underscores, and the shorthands
            ``--key.field value``, ``-cc.field=value`` and ``-O3``.
        own_options: our own flags, for suggestions.

    Returns:
        The options with dashes in names and ``-O`` spelled out.

    Raises:
        UsageError: vLLM has no such option (the message suggests one), the option is not passed on,
            there are too few or too many values, or a value is not valid.
    """
    left = _spelled_out(tokens)
    checked: list[GivenOption] = []
    while left:
        word = left.pop(0)
        if not _is_flag(word):
            stray = f"{word!r} is not a value of any option; give a model with --model."
            raise UsageError(hints.for_long_dash(word) or stray)
        flag, equals, value = word.partition("=")
        option = _find(flag, own_options)
        values = [value] if equals else _take_values(flag, option, left)
        if "." not in flag:
            _check_values(flag, option, values, attached=bool(equals))
        words = (word,) if equals else (flag, *values)
        checked.append(GivenOption(option.flags[0], flag.partition(".")[2], words))
    return checked


def _spelled_out(tokens: Sequence[str]) -> list[str]:
    """Normalize as vLLM's parser does: dashes in names up to a dot, and ``-O`` written out."""
    words: list[str] = []
    for token in tokens:
        if token.startswith("--"):
            flag, equals, value = token.partition("=")
            name, dot, field = flag.partition(".")
            words.append(name.replace("_", "-") + dot + field + equals + value)
        elif token.startswith("-O"):
            level = token[2:].removeprefix("=")
            words += ["--optimization-level", level] if level else ["--optimization-level"]
        else:
            words.append(token)
    return words


def _find(flag: str, own_options: Iterable[str]) -> VllmOption:
    name = flag.partition(".")[0]
    option = known().get(name)
    if option is None:
        hint = hints.for_unknown(name, [*own_options, *known()])
        raise UsageError(f"no option {flag}, here or in vLLM's engine.{hint}")
    if why := instead(option.flags[0]):
        raise UsageError(f"{flag} is not an engine option here: {why}.")
    return option


def instead(name: str) -> str:
    """Why this option is not passed on to vLLM; empty if it is."""
    if name in _INSTEAD:
        return _INSTEAD[name]
    if name.startswith(_HTTP_SERVER):
        return "it belongs to vLLM's own HTTP server, which does not run"
    return next((why for start, why in _INSTEAD_BY_PREFIX.items() if name.startswith(start)), "")


def _take_values(flag: str, option: VllmOption, left: list[str]) -> list[str]:
    """Take the values of an option off the words that are left."""
    limit = {SWITCH: 0, MANY: len(left)}.get(option.values, 1)
    if "." in flag:
        limit = 1
    taken: list[str] = []
    while left and len(taken) < limit and not _is_flag(left[0]):
        taken.append(left.pop(0))
    if not taken and (option.values in (ONE, MANY) or "." in flag):
        raise UsageError(f"{flag} needs a value.")
    return taken


def _check_values(flag: str, option: VllmOption, given: list[str], *, attached: bool) -> None:
    if attached and option.values == SWITCH:
        raise UsageError(f"{flag} is a switch and takes no value.")
    for value in given:
        check_value(flag, value)


def check_value(flag: str, value: str) -> None:
    """Refuse a value that vLLM would refuse seconds later. Raises as `values.check`."""
    option = known()[flag]
    if (least := _LEAST.get(option.flags[0])) is not None:
        option = msgspec.structs.replace(option, at_least=least)
    values.check(flag, value, option)


def _is_flag(word: str) -> bool:
    """Whether a word is a flag; negative numbers and a single dash are values."""
    return word.startswith("-") and word != "-" and not word[1].isdigit()
