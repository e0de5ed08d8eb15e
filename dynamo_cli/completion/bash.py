"""The completion script for bash; it needs bash 4, and not the package bash-completion."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_cli.completion.words import (
    CompletionCommand,
    CompletionKind,
    CompletionOption,
    CompletionWords,
)

SCRIPT = """\
# bash completion for dynamo-llm. Generated: `make completions` writes it anew.

# Adds the models that need no download to words. In the cache of the hub's library,
# models--OWNER--NAME is OWNER/NAME.
_dynamo_llm_models() {{
    local hub=${{HF_HUB_CACHE:-${{HF_HOME:-${{XDG_CACHE_HOME:-$HOME/.cache}}/huggingface}}/hub}}
    local folder name
    words+=' demo tiny'
    for folder in "$hub"/models--*/; do
        name=${{folder%/}} name=${{name##*/models--}}
        [[ -d $folder && $name =~ ^[A-Za-z0-9._-]+$ ]] && words+=" ${{name/--//}}"
    done
}}

# What an option of serving takes. Sets kind and words; fails when it takes nothing.
_dynamo_llm_serving() {{
    case $1 in
{serving}
    *) return 1 ;;
    esac
}}

_dynamo_llm() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} flag=${{COMP_WORDS[COMP_CWORD-1]}} start=
    # "=" splits words, unless COMP_WORDBREAKS was changed.
    if [[ $current == = ]]; then
        current=
    elif [[ $flag == = ]]; then
        flag=${{COMP_WORDS[COMP_CWORD-2]}}
    elif [[ $current == --*=* ]]; then
        flag=${{current%%=*}} start=$flag= current=${{current#*=}}
    fi

    local command='' children='' options='' arguments='' kind=none words='' serves='' index
    for ((index = 1; index < COMP_CWORD; index++)); do
        case "$command ${{COMP_WORDS[index]}}" in
        {paths}) command+=" ${{COMP_WORDS[index]}}" ;;
        *) break ;;
        esac
    done
    case $command in
{commands}
    esac
    local own=$options
    if [[ $serves ]]; then
        options+=" {serving_options}"
        own=$options
        options+=" {engine_options}"
        [[ $kind == none ]] && _dynamo_llm_serving "$flag"
    fi

    COMPREPLY=()
    if [[ $flag != --* || $kind == none ]]; then
        if [[ $current == -* ]]; then
            kind=choice words=$options
        elif ((index == COMP_CWORD)) && [[ $children ]]; then
            kind=choice words=$children
            [[ $command ]] || kind=model # which may stand in the place of a command
        elif [[ $arguments ]]; then
            kind=${{arguments%% *}} words=${{arguments#* }}
        else
            kind=choice words=$own
        fi
    fi
    [[ $kind == model ]] && _dynamo_llm_models
    local word list
    read -r -a list <<<"$words"
    for word in "${{list[@]}}"; do
        [[ $word == "$current"* ]] && COMPREPLY+=("$start$word")
    done
    case $kind in
    file)
        compopt -o filenames
        mapfile -t -O ${{#COMPREPLY[@]}} COMPREPLY < <(compgen -P "$start" -f -- "$current")
        ;;
    folder)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -P "$start" -d -- "$current")
        ;;
    model)
        if [[ $current == [./~]* ]]; then
            compopt -o filenames
            mapfile -t COMPREPLY < <(compgen -P "$start" -d -- "$current")
        fi
        ;;
    esac
}}

complete -F _dynamo_llm dynamo-llm
"""


def script(words: CompletionWords) -> str:
    """The text of the script."""
    everything = [*words.serving.walk()]
    return SCRIPT.format(
        serving=_cases((*words.serving.options, *words.engine)),
        paths=" | ".join(f"' {' '.join(one.path)}'" for one in everything if one.path),
        commands="\n".join(map(_branch, everything)),
        serving_options=_flags(words.serving.options),
        engine_options=_flags(words.engine),
    )


def _branch(command: CompletionCommand) -> str:
    """What a command takes, as a branch of ``case``."""
    path = " ".join(("", *command.path)) if command.path else ""
    lines = [f"    '{path}')"]
    if command.children:
        lines.append(f"        children='{' '.join(child.path[-1] for child in command.children)}'")
    if command.path:
        lines.append(f"        options='{_flags(command.options)}'")
        if cases := _cases(command.options):
            lines += ["        case $flag in", cases, "        esac"]
    if command.serves:
        lines.append("        serves=yes")
    if command.arguments:
        kinds = {value.kind for value in command.arguments} - {CompletionKind.WORD}
        words = [word for value in command.arguments for word in value.words]
        kind = (
            CompletionKind.CHOICE
            if kinds == {CompletionKind.CHOICE}
            else next(iter(sorted(kinds)), CompletionKind.WORD)
        )
        lines.append(f"        arguments='{kind} {' '.join(words)}'")
    return "\n".join([*lines, "        ;;"])


def _cases(options: Iterable[CompletionOption]) -> str:
    """Branches of ``case`` that set the kind of an option's value, one for each kind."""
    by_value: dict[str, list[str]] = {}
    for option in options:
        value = option.value
        if value.kind is CompletionKind.NONE or (
            value.optional and value.kind is CompletionKind.WORD
        ):
            continue
        assigned = f"kind='{value.kind}'" + (
            f" words='{' '.join(value.words)}'" if value.words else ""
        )
        by_value.setdefault(assigned, []).extend(option.flags)
    return "\n".join(f"    {' | '.join(flags)}) {then} ;;" for then, flags in by_value.items())


def _flags(options: Iterable[CompletionOption]) -> str:
    return " ".join(flag for option in options for flag in option.flags)
