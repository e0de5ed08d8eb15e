"""What the source says of its own structure: modules, imports, functions, docstrings.

``python -m tests.support.layout`` draws the packages and their imports anew in
docs/architecture.md, between the two marker lines there.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import dynamo_cli

ROOT = Path(dynamo_cli.__file__).parent
NAME = "dynamo_cli"
PAGE = ROOT.parent / "docs" / "architecture.md"
BEGIN, END = "<!-- packages: begin -->", "<!-- packages: end -->"

FOUNDATION = (
    "api_key",
    "cluster_config",
    "config",
    "deaths",
    "errors",
    "event_stream",
    "host",
    "ipc",
    "kv",
    "messages",
    "origin",
    "serve_config",
    "shapes",
    "topology",
    "units",
)
"""What most packages import; the picture leaves out the arrows to these."""

Graph = dict[str, set[str]]
"""Who imports whom, by name."""

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """A function of a module.

    Attributes:
        place: file and line.
        lines: from ``def`` to its end, without decorators.
    """

    place: str
    name: str
    lines: int


@cache
def modules() -> dict[str, ast.Module]:
    """The syntax tree of every file, by its path below the package, as in ``router/state.py``."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text())
        for path in sorted(ROOT.rglob("*.py"))
    }


@cache
def _file_of() -> dict[str, str]:
    """Files by the dotted names of their modules."""
    found = {}
    for file in modules():
        parts = [NAME, *file.removesuffix(".py").split("/")]
        found[".".join(parts).removesuffix(".__init__")] = file
    return found


@cache
def imported(tree: ast.Module) -> frozenset[str]:
    """Full names of everything that a module imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


@cache
def files() -> Graph:
    """Which file imports which; the ``__init__.py`` at the top, with the version, is left out."""
    known = _file_of()
    graph: Graph = {}
    for file, tree in modules().items():
        found = set()
        for name in imported(tree):
            target = known.get(name) or known.get(name.rpartition(".")[0])
            if target not in (None, file, "__init__.py"):
                found.add(target)
        graph[file] = found
    return graph


def folders() -> list[str]:
    """All of them, with a slash at the end; the package itself is the empty name."""
    found = {""}
    for file in modules():
        parts = file.split("/")[:-1]
        found.update("/".join(parts[: i + 1]) + "/" for i in range(len(parts)))
    return sorted(found)


def entries(folder: str) -> Graph:
    """Which entry of a folder imports which: its files, and each folder in it as a whole."""
    graph: Graph = {}
    for file, targets in files().items():
        if not file.startswith(folder):
            continue
        own = _entry(file, folder)
        inside = {_entry(target, folder) for target in targets if target.startswith(folder)}
        graph.setdefault(own, set()).update(inside - {own})
    return graph


def _entry(file: str, folder: str) -> str:
    return file.removeprefix(folder).partition("/")[0].removesuffix(".py")


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Each set of nodes that reach each other, sorted. (Tarjan, 1972.)"""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            cut = stack.index(node)
            if len(component := stack[cut:]) > 1:
                found.append(sorted(component))
            del stack[cut:]

    for node in graph:
        if node not in index:
            visit(node)
    return sorted(found)


def functions() -> Iterator[Function]:
    """Every function and method, also those inside others."""
    for file, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, FunctionNode):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield Function(f"{file}:{node.lineno}", node.name, lines)


def undocumented() -> Iterator[str]:
    """Public classes, functions and methods without a docstring, and modules without one."""
    for file, tree in modules().items():
        if ast.get_docstring(tree) is None:
            yield file
        yield from (f"{file}:{node.lineno} {node.name}" for node in _public(tree))


def _public(tree: ast.Module | ast.ClassDef) -> Iterator[FunctionNode | ast.ClassDef]:
    for node in tree.body:
        if not isinstance(node, FunctionNode | ast.ClassDef) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield node
        if isinstance(node, ast.ClassDef):
            yield from _public(node)


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names that a module binds or uses, with their lines: variables, attributes, parameters."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
            case ast.ClassDef(name=name):
                yield node.lineno, name


def exists(file: str, name: str) -> bool:
    """Whether a file defines this function, class, method or constant, as in ``Ledger.book``."""
    body: list[ast.stmt] = modules()[file].body
    for part in name.split("."):
        node = next((node for node in body if part in _bound(node)), None)
        if node is None:
            return False
        body = getattr(node, "body", [])
    return True


def _bound(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


# -- the picture -------------------------------------------------------------------------------


def arrows() -> Graph:
    """Imports between packages, less those to the foundation and those that others imply."""
    graph = entries("")
    kept = {
        name: {target for target in targets if target not in FOUNDATION}
        for name, targets in graph.items()
        if name not in FOUNDATION and name != "__init__"
    }
    return {
        name: {
            target
            for target in targets
            if not any(target in _reached(kept, other) for other in targets - {target})
        }
        for name, targets in kept.items()
    }


def _reached(graph: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    left = [start]
    while left:
        for target in graph.get(left.pop(), ()):
            if target not in seen:
                seen.add(target)
                left.append(target)
    return seen


def picture() -> str:
    """A Mermaid flow chart: an arrow from who imports to who is imported."""
    lines = ["```mermaid", "flowchart TD"]
    for name, targets in sorted(arrows().items()):
        lines += [f"    {name} --> {target}" for target in sorted(targets)] or [f"    {name}"]
    lines += [f"    foundation[{', '.join(FOUNDATION)}]", "```"]
    return "\n".join(lines)


def drawn() -> str:
    """The page with the picture as it should be now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{picture()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(drawn())
