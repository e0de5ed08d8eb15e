"""The completion script for fish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dynamo_cli.completion.words import (
    CompletionCommand,
    CompletionKind,
    CompletionOption,
    CompletionValue,
    CompletionWords,
)

SCRIPT = """\
# fish completion for dynamo-llm. Generated: `make completions` writes it anew.

# Names of models in the cache of the hub's library: models--OWNER--NAME is OWNER/NAME.
function __dynamo_llm_models
    set -l cache $HOME/.cache
    set -q XDG_CACHE_HOME[1]; and set cache $XDG_CACHE_HOME
    set -l hub $cache/huggingface/hub
    set -q HF_HOME[1]; and set hub $HF_HOME/hub
    set -q HF_HUB_CACHE[1]; and set hub $HF_HUB_CACHE
    printf '%s\\n' demo tiny
    for folder in $hub/models--*/
        string replace -r '.*/models--(.*)/$' '$1' -- $folder | string replace -- -- /
    end
end

# The words that lead to the command which is being typed; and, after "+", that nothing follows yet.
function __dynamo_llm_command
    set -l words (commandline -opc)[2..]
    set -l command
    for word in $words
        switch "$command $word"
            case {paths}
                set command "$command $word"
            case '*'
                echo -- $command
                return
        end
    end
    echo -- "$command+"
end

function __dynamo_llm_at
    string match -q -- "$argv[1]" (__dynamo_llm_command | string replace + '')
end

function __dynamo_llm_first
    string match -q -- "$argv[1]+" (__dynamo_llm_command)
end

function __dynamo_llm_serves
    contains -- (__dynamo_llm_command | string replace + '') {serving}
end

complete -c dynamo-llm -f
{lines}
"""


def script(words: CompletionWords) -> str:
    """The text of the script."""
    everything = [*words.serving.walk()]
    lines = [line for command in everything for line in _command(command)]
    serving = _options((*words.serving.options, *words.engine), "__dynamo_llm_serves")
    return SCRIPT.format(
        paths=" ".join(_quoted(_path(one)) for one in everything if one.path),
        serving=" ".join(_quoted(_path(one)) for one in everything if one.serves),
        lines="\n".join([*lines, *serving]),
    )


def _path(command: CompletionCommand) -> str:
    return "".join(f" {word}" for word in command.path)


def _command(command: CompletionCommand) -> Iterator[str]:
    first = _quoted(f"__dynamo_llm_first '{_path(command)}'")
    if not command.path:  # a model may stand in the place of a command
        yield f"complete -c dynamo-llm -n {first}{_offers(CompletionValue(CompletionKind.MODEL))}"
    for child in command.children:
        name, text = child.path[-1], _quoted(child.help)
        yield f"complete -c dynamo-llm -n {first} -a {name} -d {text}"
    here = f"__dynamo_llm_at '{_path(command)}'"
    if command.path:
        yield from _options(command.options, here)
    for value in command.arguments:
        if value.kind is not CompletionKind.WORD:
            yield f"complete -c dynamo-llm -n {_quoted(here)}{_offers(value)}"


def _options(options: Iterable[CompletionOption], condition: str) -> Iterator[str]:
    for option in options:
        flags = " ".join(f"-l {flag.removeprefix('--')}" for flag in option.flags)
        needed = "" if option.value.kind is CompletionKind.NONE or option.value.optional else " -r"
        yield (
            f"complete -c dynamo-llm -n {_quoted(condition)} {flags}"
            f"{needed}{_offers(option.value)} -d {_quoted(option.help)}"
        )


def _offers(value: CompletionValue) -> str:
    words = f" -a {_quoted(' '.join(value.words))}" if value.words else ""
    match value.kind:
        case CompletionKind.NONE:
            return ""
        case CompletionKind.MODEL:
            return " -f -a '(__dynamo_llm_models; __fish_complete_directories (commandline -ct))'"
        case CompletionKind.FILE:
            return f" -F{words}"
        case CompletionKind.FOLDER:
            return " -f -a '(__fish_complete_directories (commandline -ct))'"
        case _:
            return f" -f{words}"


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
