"""Compares what our code uses of vLLM with what a release defines, without importing the release.

    python -m tests.seam.check [FOLDER [RELEASE]]

`FOLDER` holds the package ``vllm``, such as an unpacked wheel; without it the installed release is
checked. It prints a line for each use that the release does not have, and exits with 1 then.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from dynamo_cli.engines.vllm import versions
from tests.seam.reached import REACHED
from tests.seam.sources import Found, Signature, Sources
from tests.seam.uses import Use, all_uses

OF_OTHERS = ("__", "model_")
"""How names begin that a class has from `object` and from pydantic."""


SHORT_WAYS = tuple(f"engines/vllm/front/{name}.py" for name in ("chat_events", "direct", "whole"))
"""Files whose code runs with the releases of `versions.SHORT_WAYS` only."""


def installed() -> Sources:
    """The sources of the installed vLLM; it is not imported."""
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    return Sources(Path(spec.origin).parents[1])


def problems(sources: Sources, release: str) -> list[str]:
    """What our code uses and this release does not have, a line each."""
    uses = [use for use in all_uses() if runs_with(release, use)]
    found = [f"{use.place}: {problem}" for use in uses if (problem := of_use(sources, use))]
    moved = [places[release] for places in versions.MOVED.values()]
    found += [f"versions.py: no module {name}" for name in moved if sources.module(name) is None]
    return found + list(of_reached(sources, REACHED))


def runs_with(release: str, use: Use) -> bool:
    """Whether code runs with this release at all."""
    return release in versions.SHORT_WAYS or not use.place.startswith(SHORT_WAYS)


def of_use(sources: Sources, use: Use) -> str:
    """Why a use does not fit; empty if it does."""
    target = sources.find(use.module, use.name) if use.name else sources.module(use.module)
    name = f"{use.module}.{use.name}".rstrip(".")
    if target is None:
        return f"{name} does not exist"
    if use.attribute:
        return _of_attribute(target, name, use.attribute, use.call)
    if use.subclass is not None:
        return _of_subclass(target, name, use.subclass)
    return _of_call(name, target.signature(), use.call) if use.call is not None else ""


def of_reached(sources: Sources, reached: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """What of a table such as `REACHED` does not fit, a line each."""
    for owner, entries in reached.items():
        module, _, name = owner.rpartition(".")
        target = sources.module(owner) or sources.find(module, name)
        if target is None:
            yield f"reached.py: {owner} does not exist"
            continue
        for entry in entries:
            node = ast.parse(entry, mode="eval").body
            call = node if isinstance(node, ast.Call) else None
            name = ast.unparse(call.func if call is not None else node)
            if problem := _of_attribute(target, owner, name, call, of_class=False):
                yield f"reached.py: {problem}"


def _of_attribute(
    owner: Found, name: str, attribute: str, call: ast.Call | None, *, of_class: bool = True
) -> str:
    whole = f"{name}.{attribute}"
    if isinstance(owner.node, ast.Module):
        member = owner.sources.find(owner.module, attribute)
    elif isinstance(owner.node, ast.ClassDef):
        member = owner.members.get(attribute)
        if member is None and (owner.is_open or attribute.startswith(OF_OTHERS)):
            return ""
    else:
        return ""  # an object: what it is cannot be seen
    if member is None:
        return f"{whole} does not exist" if not _imports(owner, attribute) else ""
    return _of_call(whole, member.signature(of_class=of_class), call) if call is not None else ""


def _imports(owner: Found, name: str) -> bool:
    """Whether a module imports this name from elsewhere, as it does with ``time``."""
    return isinstance(owner.node, ast.Module) and any(
        (alias.asname or alias.name) == name
        for node in ast.walk(owner.node)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    )


def _of_call(name: str, signature: Signature | None, call: ast.Call) -> str:
    if signature is None:
        return ""
    spread = any(isinstance(one, ast.Starred) for one in call.args)
    names = [one.arg for one in call.keywords if one.arg is not None]
    all_given = not spread and len(names) == len(call.keywords)
    count = len(call.args) if not spread else 0
    problem = signature.problem(count, names, all_given=all_given)
    return f"{name} {problem}" if problem else ""


def _of_subclass(base: Found, name: str, ours: ast.ClassDef) -> str:
    """Why a class of ours cannot stand for its base in vLLM."""
    own = {
        node.name: node
        for node in ours.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    given = own.keys() | {
        one.id for node in ours.body for one in ast.walk(node) if isinstance(one, ast.Name)
    }
    if lacking := base.abstract - given:
        return f"{ours.name} does not define {', '.join(sorted(lacking))} of {name}"
    for method, node in own.items():
        theirs = base.members.get(method)
        expected = theirs.signature() if theirs is not None and method != "__init__" else None
        if expected is None:
            continue
        mine = Found(base.sources, "", node).signature()
        assert mine is not None
        problem = mine.problem(len(expected.positional), list(expected.keywords))
        if problem:
            return f"{ours.name}.{method} {problem}, which vLLM gives to {name}.{method}"
    return ""


def main() -> None:
    words = sys.argv[1:]
    sources = Sources(Path(words[0])) if words else installed()
    release = words[1] if len(words) > 1 else versions.release()
    found = problems(sources, release)
    print("\n".join(found))
    uses = {(use.module, use.name) for use in all_uses()}
    print(
        f"{len(uses)} imported names, {sum(map(len, REACHED.values()))} others: {len(found)} differ"
    )
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
