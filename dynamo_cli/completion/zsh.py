"""The completion script for zsh: a function for its completion system."""

from __future__ import annotations

from collections.abc import Iterable

from dynamo_cli.completion.words import (
    CompletionCommand,
    CompletionKind,
    CompletionOption,
    CompletionValue,
    CompletionWords,
)

SCRIPT = """\
#compdef dynamo-llm
# zsh completion for dynamo-llm. Generated: `make completions` writes it anew.

# Models in the cache of the hub's library (models--OWNER--NAME is OWNER/NAME), and folders.
_dynamo_llm_models() {{
    local hub=${{HF_HUB_CACHE:-${{HF_HOME:-${{XDG_CACHE_HOME:-$HOME/.cache}}/huggingface}}/hub}}
    local -a names=($hub/models--*(N-/:t))
    names=(demo tiny ${{${{names#models--}}/--//}})
    _alternative 'models:model:compadd -a names' 'folders:folder:_files -/'
}}

# Names that are known beforehand, or files.
_dynamo_llm_files_or() {{
    local -a names=("$@")
    _alternative 'names:name:compadd -a names' 'files:file:_files'
}}

_dynamo-llm() {{
    local command=
    integer at=2
    while ((at < CURRENT)); do
        case "$command $words[at]" in
        {paths}) command+=" $words[at]" ;;
        *) break ;;
        esac
        ((at++))
    done
    local -a children specs
    local serves=
    case $command in
{commands}
    esac
    if ((at == CURRENT && $#children)) && [[ $words[CURRENT] != -* ]]; then
        _describe command children
        [[ -n $command ]] || _dynamo_llm_models # which may stand in the place of a command
        return
    fi
    if [[ -n $serves ]]; then
        specs+=(
{serving}
        )
    fi
    # A model in the place of a command is followed by options.
    [[ -z $command && $words[at] != -* ]] && ((at < CURRENT)) && ((at++))
    words=($words[1] "${{(@)words[at,-1]}}")
    ((CURRENT -= at - 2))
    _arguments $specs
}}

# The first call loads this file as the function of that name; else it was sourced.
if [[ $funcstack[1] == _dynamo-llm ]]; then
    _dynamo-llm "$@"
else
    compdef _dynamo-llm dynamo-llm
fi
"""


def script(words: CompletionWords) -> str:
    """The text of the script."""
    everything = [*words.serving.walk()]
    return SCRIPT.format(
        paths="|".join(f"' {' '.join(one.path)}'" for one in everything if one.path),
        commands="\n".join(map(_branch, everything)),
        serving=_specs((*words.serving.options, *words.engine)),
    )


def _branch(command: CompletionCommand) -> str:
    path = " ".join(("", *command.path)) if command.path else ""
    lines = [f"    '{path}')"]
    if command.children:
        lines.append("        children=(")
        lines += [f"            {_quoted(_described(child))}" for child in command.children]
        lines.append("        )")
    own = [_specs(command.options)] if command.path else []
    own += [f"            {_quoted(_argument(value))}" for value in command.arguments]
    if own:
        lines += ["        specs=(", *own, "        )"]
    if command.serves:
        lines.append("        serves=yes")
    return "\n".join([*lines, "        ;;"])


def _described(command: CompletionCommand) -> str:
    return f"{command.path[-1]}:{command.help}"


def _specs(options: Iterable[CompletionOption]) -> str:
    """Specifications of options, one per name; each name excludes the others of its option."""
    return "\n".join(
        f"            {_quoted(_spec(option, flag))}" for option in options for flag in option.flags
    )


def _spec(option: CompletionOption, flag: str) -> str:
    value = option.value
    before = "*" if value.many else f"({' '.join(option.flags)})" if len(option.flags) > 1 else ""
    if value.kind is CompletionKind.NONE:
        return f"{before}{flag}[{_escaped(option.help)}]"
    colon = "::" if value.optional else ":"
    return f"{before}{flag}=[{_escaped(option.help)}]{colon}{value.kind}:{_action(value)}"


def _argument(value: CompletionValue) -> str:
    return f"{'*' if value.many else ''}:{value.kind}:{_action(value)}"


def _action(value: CompletionValue) -> str:
    words = " ".join(value.words)
    match value.kind:
        case CompletionKind.CHOICE:
            return f"({words})"
        case CompletionKind.MODEL:
            return "_dynamo_llm_models"
        case CompletionKind.FILE:
            return f"_dynamo_llm_files_or {words}" if words else "_files"
        case CompletionKind.FOLDER:
            return "_files -/"
        case _:
            return " "


def _escaped(text: str) -> str:
    for special in "\\[]":
        text = text.replace(special, f"\\{special}")
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
