"""Settings from ``--config FILE.toml`` and from ``DYNAMO_LLM_*`` variables.

The order of precedence is command line > environment > file > default. Values of the file and the
environment become the `default_map` of the command's context, so that Typer treats them like typed
ones. This module maps names, checks values, and records where each value came from.

    option           key in the file         variable
    --http-port      http-port = 8181        DYNAMO_LLM_HTTP_PORT=8181
    --api-key        api-key = ["a", "b"]    DYNAMO_LLM_API_KEY=a,b
    --max-num-seqs   [engine]                DYNAMO_LLM_ENGINE_ARGS='--max-num-seqs 64'
                     max-num-seqs = 64
"""

from __future__ import annotations

import difflib
import json
import os
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperOption

from dynamo_cli.cli import bad_value, services
from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.errors import UsageError
from dynamo_cli.host import oserrors

PREFIX = "DYNAMO_LLM_"
FILE_VARIABLE = PREFIX + "CONFIG"
ENGINE_VARIABLE = PREFIX + "ENGINE_ARGS"
ENGINE_TABLE = "engine"

COMMAND_LINE, ENVIRONMENT, FILE, DEFAULT = "command line", "environment", "file", "default"

ACTIONS = frozenset({"help", "version", "dry-run", "json", "config"})
"""Options for one call of the command only, which are not settings."""

SECRET_ENDINGS = ("key", "token", "password")
MASK = "***"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from.

    Attributes:
        kind: command line, environment, file or default.
        where: name of the variable or of the file; empty for the other two kinds.
    """

    kind: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.where})" if self.where else self.kind


@dataclass(frozen=True, slots=True)
class EngineSetting:
    """An option for vLLM, and where it came from."""

    given: declared.GivenOption
    origin: Origin


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of the file and the environment.

    Attributes:
        values: values by parameter name, as if typed: words, lists of words, or booleans.
        origins: where each of them came from.
        engine: options for vLLM, those of lower precedence first.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    engine: tuple[EngineSetting, ...] = ()


def read(context: typer.Context, file: Path | None) -> Path | None:
    """Read all settings. This callback of ``--config`` runs first, even without the option.

    Raises:
        UsageError: a key or variable is unknown, or a value is wrong.
    """
    keys = keys_of(context.command)
    settings = _join(_of_file(context, keys, file), _of_environment(context, keys, os.environ))
    context.default_map = settings.values
    context.obj = settings
    return file


def keys_of(command: Any) -> dict[str, TyperOption]:
    """The settings of a command, by their options' long names without leading dashes."""
    parameters = [param for param in command.params if isinstance(param, TyperOption)]
    named = {param.opts[0].removeprefix("--"): param for param in parameters}
    return {key: param for key, param in named.items() if key not in ACTIONS}


def negations_of(command: Any) -> dict[str, TyperOption]:
    """``--no-KEY`` for every switch that does not declare it; overrides a file or a variable."""
    return {
        f"--no-{key}": param
        for key, param in keys_of(command).items()
        if param.is_flag and not param.secondary_opts
    }


def variable_of(key: str) -> str:
    """``http-port`` -> ``DYNAMO_LLM_HTTP_PORT``."""
    return PREFIX + key.upper().replace("-", "_")


def engine_settings(context: typer.Context) -> list[EngineSetting]:
    """All options for vLLM; one of higher precedence replaces the same one of lower precedence.

    Raises:
        UsageError: the command line has words that are neither our options nor vLLM's.
    """
    own = [flag for param in context.command.params for flag in param.opts]
    typed = [
        EngineSetting(given, Origin(COMMAND_LINE)) for given in declared.parse(context.args, own)
    ]
    settings: Settings = context.obj
    kept = [weak for weak in settings.engine if not _replaced(weak.given, typed)]
    return [*kept, *typed]


def engine_args(context: typer.Context) -> tuple[str, ...]:
    """All options for vLLM as words for its parser."""
    return tuple(word for setting in engine_settings(context) for word in setting.given.words)


def origin_of(context: typer.Context, name: str) -> Origin:
    """Where the value of a parameter came from."""
    source = context.get_parameter_source(name)
    settings: Settings = context.obj
    match source.name if source else "":
        case "COMMANDLINE":
            return Origin(COMMAND_LINE)
        case "DEFAULT_MAP":
            return settings.origins[name]
        case _:
            return settings.origins.get(name, Origin(DEFAULT))


def is_secret(key: str) -> bool:
    """Whether the value of this setting must not be shown."""
    return key.endswith(SECRET_ENDINGS)


def _join(weak: Settings, strong: Settings) -> Settings:
    kept = [setting for setting in weak.engine if not _replaced(setting.given, strong.engine)]
    return Settings(
        weak.values | strong.values, weak.origins | strong.origins, (*kept, *strong.engine)
    )


def _replaced(given: declared.GivenOption, by: Iterable[EngineSetting]) -> bool:
    """Whether one of `by` replaces it. An object replaces its fields: ``--x`` also ``--x.y``."""
    return any(
        given.name == other.given.name and other.given.field in ("", given.field) for other in by
    )


def _of_file(
    context: typer.Context, keys: Mapping[str, TyperOption], file: Path | None
) -> Settings:
    if file is None:
        return Settings()
    origin = Origin(FILE, str(file))
    table = _load(file)
    engine = table.pop(ENGINE_TABLE, {})
    if not isinstance(engine, dict):
        raise UsageError(f"{file}: {ENGINE_TABLE} is a table: [{ENGINE_TABLE}].")
    if own := sorted(engine.keys() & keys.keys()):
        raise UsageError(f"{file}: {own[0]} belongs above [{ENGINE_TABLE}], not into it.")
    values = {}
    for key, value in table.items():
        if key not in keys:
            raise UsageError(f"{file}: {_unknown_key(key, keys)}")
        values[keys[key].name] = _checked(context, keys[key], value, f"{file}: {key}")
    words = [word for key, value in engine.items() for word in _engine_words(file, key, value)]
    return _settings(values, words, origin, origin)


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"--config {file} cannot be read: {oserrors.reason(error)}.") from error
    except ValueError as error:  # not TOML, or not text
        raise UsageError(f"--config {file} is not TOML: {error}.") from error


def _unknown_key(key: str, keys: Mapping[str, TyperOption]) -> str:
    option = declared.known().get(f"--{key}")
    if option and (why := declared.instead(option.flags[0])):
        return f"{key} is not a setting here: {why}."
    if option:
        return f"{key} is vLLM's; put it under [{ENGINE_TABLE}]."
    return f"there is no setting {key}.{_near(key, keys)}"


def _engine_words(file: Path, key: str, value: Any) -> list[str]:
    """An entry of the table ``[engine]`` as words of a command line."""
    flag = f"--{key}"
    match value:
        case True:
            return [flag]
        case False:
            return [_negated(file, key)]
        case dict():
            return [flag, _json(file, key, value)]
        case list():
            words = (one if isinstance(one, str) else _json(file, key, one) for one in value)
            return [flag, *words]
        case _:
            # Attached with "=", a value may begin with a dash.
            return [f"{flag}={value}"]


def _json(file: Path, key: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:  # a date or a time: TOML has them, JSON does not
        raise UsageError(
            f"{file}: [{ENGINE_TABLE}] {key} holds a date or a time; put it in quotes."
        ) from error


def _negated(file: Path, key: str) -> str:
    option = declared.known().get(f"--{key}")
    negative = f"--no-{key}"
    if option and negative not in option.flags:
        raise UsageError(f"{file}: [{ENGINE_TABLE}] {key} cannot be false; leave it out.")
    return negative if option else f"--{key}"


def _of_environment(
    context: typer.Context, keys: Mapping[str, TyperOption], environment: Mapping[str, str]
) -> Settings:
    variables = {variable_of(key): param for key, param in keys.items()}
    values, origins = {}, {}
    for name, text in _ours(environment, variables):
        if name not in variables:
            raise UsageError(f"the environment variable {_unknown_variable(name, variables)}")
        param = variables[name]
        if text:  # an empty variable counts as not set
            value = [word for word in text.split(",") if word] if param.multiple else text
            values[param.name] = _checked(context, param, value, name)
            origins[param.name] = Origin(ENVIRONMENT, name)
    words = _split(environment.get(ENGINE_VARIABLE, ""))
    named = (word.partition("=")[0].removeprefix("--").replace("_", "-") for word in words)
    if own := sorted(keys.keys() & {*named}):
        raise UsageError(
            f"{ENGINE_VARIABLE}: --{own[0]} has a variable of its own: {variable_of(own[0])}."
        )
    found = _settings(values, words, Origin(ENVIRONMENT), Origin(ENVIRONMENT, ENGINE_VARIABLE))
    return Settings(values, origins, found.engine)


def _ours(environment: Mapping[str, str], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The variables that are meant as settings, by name."""
    for name, text in sorted(environment.items()):
        if not name.startswith(PREFIX) or name in (FILE_VARIABLE, ENGINE_VARIABLE):
            continue
        bare = name.removeprefix(PREFIX)
        if not services.tells_of_a_service(bare, text, setting=name in known):
            yield name, text


def _unknown_variable(name: str, variables: Iterable[str]) -> str:
    # Without the common prefix, which would make all names similar.
    known = [known.removeprefix(PREFIX) for known in (*variables, FILE_VARIABLE, ENGINE_VARIABLE)]
    near = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
    hint = f" Did you mean {PREFIX}{near[0]}?" if near else ""
    return f"{name} is not a setting.{hint}"


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{ENGINE_VARIABLE}: {error}.") from error


def _settings(
    values: dict[str, Any], words: list[str], origin: Origin, engine_origin: Origin
) -> Settings:
    try:
        engine = [EngineSetting(given, engine_origin) for given in declared.parse(words)]
    except UsageError as error:
        raise UsageError(f"{engine_origin.where}: {error.message}") from error
    return Settings(values, dict.fromkeys(values, origin), tuple(engine))


def _checked(context: typer.Context, param: TyperOption, value: Any, where: str) -> Any:
    """The value as if it had been typed, checked by its parameter."""
    typed = _as_typed(param, value, where)
    try:
        param.process_value(context, typed)
    except typer.BadParameter as error:
        raise UsageError(bad_value.explain(error, param, where)) from error
    return typed


def _as_typed(param: TyperOption, value: Any, where: str) -> Any:
    if param.multiple:
        return [_word(item, where) for item in (value if isinstance(value, list) else [value])]
    if not param.is_flag:
        return _word(value, where)
    if isinstance(value, bool | str):
        return value
    raise UsageError(
        f"{where}: it is a switch, true or false, not {json.dumps(value, default=str)}."
    )


def _word(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(
            f"{where}: it takes a word or a number, not {json.dumps(value, default=str)}."
        )
    return str(value)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]}?" if near else ""
