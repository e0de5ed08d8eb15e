"""Checks options and the model's files without vLLM, in well under a second.

Serving, ``--dry-run`` and ``doctor`` all use it, so that they report the same. What only vLLM can
judge is reported by its processes, in the same form (`engines/vllm/refusals.py`).
"""

from __future__ import annotations

import difflib
import importlib.util
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from dynamo_cli.config import BUILT_IN_MODELS
from dynamo_cli.engines.vllm.options import declared
from dynamo_cli.errors import UsageError
from dynamo_cli.models import catalog, soundness, templates
from dynamo_cli.plan import disk_folder, log_file
from dynamo_cli.plan.typed import MOCK, Typed

PLUGINS = "vllm.general_plugins"
BROUGHT = {
    "--tool-call-parser": "--tool-parser-plugin",
    "--reasoning-parser": "--reasoning-parser-plugin",
}
"""Options to whose names a plugin may add some, and the option that loads the plugin."""

CLASSES = {
    "--worker-cls": ".",
    "--worker-extension-cls": ".",
    "--scheduler-cls": ".",
    "--logits-processors": ":",
}
"""Options that name a class, and what separates module and class in the name."""

CHAT_TEMPLATES = "transformers_utils/chat_templates"
JINJA = "{}\n"
"""Characters by which vLLM tells the text of a template from a path."""

ORDINARY = ("", "auto", "hf", "safetensors", "fastsafetensors")
"""Values of ``--load-format`` that load the usual weight files."""

Given = Mapping[str, tuple[str, ...]]
"""Values of the given options for vLLM, by ``--name`` or ``--name.field``."""


def check(typed: Typed, *, ask_hub: bool) -> None:
    """Check the values of all options, and the files of the model.

    Args:
        ask_hub: whether to check that the hub answers for a model that is not here.

    Raises:
        UsageError, ModelError: something will not work; the message says what to do.
        ModelUnreachable: the model is not here, and the hub does not answer.
    """
    if typed.record is not None:
        log_file.check_place("--record", typed.record)
    log_file.check(typed)
    disk_folder.check(typed)
    given = _given(typed)
    _check_names(given)
    _check_tool_choice(given)
    _check_template(given)
    _check_plugins(given)
    _check_classes(given)
    _check_adapters(given)
    _check_folders(given)
    if typed.model and typed.model not in BUILT_IN_MODELS:
        _check_model(typed, given, catalog.locate(typed.model, ask_hub=ask_hub))


def _given(typed: Typed) -> dict[str, tuple[str, ...]]:
    """Options for vLLM; of the same option given twice, the last one counts."""
    parsed = declared.parse(typed.engine_args)
    return {f"{one.name}.{one.field}".rstrip("."): one.values for one in parsed}


def _one(given: Given, name: str) -> str:
    return next(iter(given.get(name, ())), "")


def _check_names(given: Given) -> None:
    """Check names that vLLM looks up in a table, unless a plugin may have extended the table."""
    for name, values in given.items():
        option = declared.known().get(name)
        if option is None or not option.names or BROUGHT.get(name) in given:
            continue
        for value in values:
            known = value in ("", "None", *option.names) or "." in value  # a class by its full name
            if not known and not _has_plugins():
                near = difflib.get_close_matches(value, option.names, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise UsageError(
                    f"{name} cannot be {value!r}; it is one of {', '.join(option.names)}.{hint}"
                )


def _check_tool_choice(given: Given) -> None:
    if "--enable-auto-tool-choice" in given and "--tool-call-parser" not in given:
        raise UsageError("--enable-auto-tool-choice needs --tool-call-parser, such as hermes.")


def _has_plugins() -> bool:
    """Whether plugins of vLLM are installed besides its own."""
    return any(not one.value.startswith("vllm.") for one in metadata.entry_points(group=PLUGINS))


def _check_template(given: Given) -> None:
    text = _one(given, "--chat-template")
    if not text:
        return
    if any(char in text for char in JINJA):
        templates.check(text.replace("\\n", "\n"), "the text of --chat-template")
        return
    path = Path(text) if Path(text).exists() else _of_vllm(text)
    if path is None:
        raise UsageError(
            f"--chat-template {text}: there is no such file, here or among vLLM's own."
        )
    if path.is_dir():
        raise UsageError(f"--chat-template {text} is a folder; it takes a file.")
    templates.check_file(path)


def _of_vllm(name: str) -> Path | None:
    """A template that comes with vLLM, found without importing it."""
    vllm = importlib.util.find_spec("vllm")
    for folder in (vllm.submodule_search_locations or ()) if vllm else ():
        path = Path(folder, CHAT_TEMPLATES, name)
        if path.is_file():
            return path
    return None


def _check_plugins(given: Given) -> None:
    """Check that each plugin is a file, or a module that can be imported."""
    for flag in BROUGHT.values():
        plugin = _one(given, flag)
        if plugin and not (Path(plugin).is_file() or _is_module(plugin)):
            raise UsageError(f"{flag} {plugin}: there is no such file, and no module of that name.")


def _check_classes(given: Given) -> None:
    for flag, separator in CLASSES.items():
        for name in given.get(flag, ()):
            if name == "auto":
                continue
            module, found, last = name.rpartition(separator)
            if not (found and module and last):
                raise UsageError(f"{flag} takes a class as MODULE{separator}CLASS; not {name!r}.")
            if not _is_module(module):
                raise UsageError(
                    f"{flag} {name}: there is no module {module.partition('.')[0]}; "
                    "install it, or name its folder in PYTHONPATH."
                )


def _is_module(name: str) -> bool:
    """Whether its top-level package can be found; it is not imported."""
    try:
        return importlib.util.find_spec(name.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _check_adapters(given: Given) -> None:
    modules = given.get("--lora-modules", ())
    if modules and "--enable-lora" not in given:
        raise UsageError("--lora-modules needs --enable-lora.")
    for module in modules:
        name, path = _adapter(module)
        if not name or not path:
            raise UsageError(
                f"--lora-modules takes NAME=PATH, or an object with name and path; not {module!r}."
            )
        if folder := _folder("--lora-modules", path):
            soundness.check_adapter(folder)


def _adapter(module: str) -> tuple[str, str]:
    """Name and path of an adapter, parsed as vLLM does."""
    if "=" in module and "," not in module:
        name, _, path = module.partition("=")
        return name, path
    found = _object(module)
    return str(found.get("name") or ""), str(found.get("path") or "")


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _check_folders(given: Given) -> None:
    """Check options that name the folder of another model, or of a part of one."""
    if folder := _folder("--tokenizer", _one(given, "--tokenizer")):
        soundness.check_tokenizer(folder)
    generation = _one(given, "--generation-config")
    if generation not in ("", "auto", "vllm"):
        _folder("--generation-config", generation)
    for flag in ("--hf-config-path", "--allowed-local-media-path"):
        _folder(flag, _one(given, flag))
    draft = _one(given, "--spec-model") or _one(given, "--speculative-config.model")
    draft = draft or str(_object(_one(given, "--speculative-config")).get("model") or "")
    _folder("the draft model", draft)


def _folder(what: str, name: str) -> Path | None:
    """The folder of this name; None when it is a name on a hub.

    Raises:
        UsageError: it can only be a path, and there is no such folder.
    """
    path = catalog.expanded(name)
    if not name or not (catalog.is_path(name) or path.is_dir()):
        return None
    if not path.is_dir():
        raise UsageError(f"{what} {name}: there is no such folder.")
    return path


def _check_model(typed: Typed, given: Given, path: str) -> None:
    if not Path(path).is_dir():
        return
    needed = soundness.Needed(
        config="--hf-config-path" not in given,
        weights=_one(given, "--load-format") in ORDINARY and typed.engine != MOCK,
        tokenizer=not {"--tokenizer", "--skip-tokenizer-init"} & given.keys(),
    )
    soundness.check(Path(path), needed)
