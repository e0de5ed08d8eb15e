"""What our code uses of vLLM, read from our own sources: names, calls of them, and subclasses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.support import layout

SEAM = "engines/vllm"


@dataclass(frozen=True)
class Use:
    """A use of a name that is imported from vLLM.

    Attributes:
        place: our file and line.
        module, name: where the import looks; the name is empty for a module itself.
        attribute: the attribute of it that is used; empty if it is used itself.
        call: the call, if it is called.
        subclass: our class, if it is a base of one.
    """

    place: str
    module: str
    name: str
    attribute: str = ""
    call: ast.Call | None = field(default=None, compare=False)
    subclass: ast.ClassDef | None = field(default=None, compare=False)


def all_uses() -> list[Use]:
    """All uses of vLLM in our code."""
    return [
        use
        for name, tree in layout.modules().items()
        if name.startswith(SEAM)
        for use in uses_in(name, tree)
    ]


def uses_in(file: str, tree: ast.AST) -> Iterator[Use]:
    """The uses of vLLM in one of our files."""
    bound: dict[str, tuple[str, str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and _is_vllm(node.module or ""):
            for alias in node.names:
                bound[alias.asname or alias.name] = (node.module or "", alias.name)
                yield Use(f"{file}:{node.lineno}", node.module or "", alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if _is_vllm(alias.name):
                    yield Use(f"{file}:{node.lineno}", alias.name, "")
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        place = f"{file}:{getattr(node, 'lineno', 0)}"
        match node:
            case ast.Name(id=name) if name in bound and id(node) in called:
                yield Use(place, *bound[name], call=called[id(node)])
            case ast.Attribute(value=ast.Name(id=name), attr=attribute, ctx=ast.Load()) if (
                name in bound
            ):
                yield Use(place, *bound[name], attribute, called.get(id(node)))
            case ast.ClassDef(bases=bases):
                for base in bases:
                    if isinstance(base, ast.Name) and base.id in bound:
                        yield Use(place, *bound[base.id], subclass=node)


def _is_vllm(module: str) -> bool:
    return module == "vllm" or module.startswith("vllm.")
