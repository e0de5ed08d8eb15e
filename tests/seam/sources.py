"""What a release of vLLM defines, read from its sources: nothing of it is imported or installed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

OPEN_BASES = ("Exception", "ArgumentParser", "Module", "Enum", "IntEnum", "Filter")
"""Bases outside of vLLM that bring names of their own."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Signature:
    """The parameters of a function, without that for the object itself.

    Attributes:
        positional: those that may be given by position, in their order.
        keywords: those that may only be given by name.
        required: those without a default.
        rest, more: whether it takes any number of others, by position and by name.
    """

    positional: tuple[str, ...]
    keywords: tuple[str, ...]
    required: frozenset[str]
    rest: bool
    more: bool

    @staticmethod
    def of(arguments: ast.arguments, *, bound: bool) -> Signature:
        """Of a function definition; `bound` leaves out the first parameter."""
        names = [one.arg for one in (*arguments.posonlyargs, *arguments.args)]
        required = set(names[: len(names) - len(arguments.defaults)])
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            required |= {one.arg} if default is None else set()
        positional = tuple(names[1:] if bound else names)
        keywords = tuple(one.arg for one in arguments.kwonlyargs)
        required &= {*positional, *keywords}
        rest, more = arguments.vararg is not None, arguments.kwarg is not None
        return Signature(positional, keywords, frozenset(required), rest, more)

    def problem(self, count: int, names: list[str], *, all_given: bool = True) -> str:
        """Why it cannot be called with `count` positional values and these names; else empty."""
        if count > len(self.positional) and not self.rest:
            return f"takes {len(self.positional)} values, not {count}"
        known = {*self.positional[count:], *self.keywords}
        for name in names:
            if name not in known and not self.more:
                return f"has no parameter {name!r}"
        left = self.required - {*self.positional[:count], *names}
        return f"needs {', '.join(sorted(left))} too" if left and all_given else ""


@dataclass(frozen=True)
class Found:
    """A definition: a module, a class, a function or another value, and the module it is in."""

    sources: Sources
    module: str
    node: ast.AST

    @cached_property
    def members(self) -> dict[str, Found]:
        """All names of a class, with those of its bases and those that its methods assign."""
        names: dict[str, Found] = {}
        assert isinstance(self.node, ast.ClassDef)
        for base in self.bases:
            names |= base.members
        own = {name: Found(self.sources, self.module, node) for name, node in _own(self.node)}
        return names | own

    @cached_property
    def bases(self) -> list[Found]:
        """The bases of a class that are vLLM's own."""
        assert isinstance(self.node, ast.ClassDef)
        found = [self.sources.find(self.module, _last(base)) for base in self.node.bases]
        return [one for one in found if one is not None and isinstance(one.node, ast.ClassDef)]

    @cached_property
    def is_open(self) -> bool:
        """Whether a class may have names that are not seen here."""
        assert isinstance(self.node, ast.ClassDef)
        outside = any(_last(base) in OPEN_BASES for base in self.node.bases)
        return outside or any(base.is_open for base in self.bases)

    @cached_property
    def abstract(self) -> set[str]:
        """Names of the methods that a subclass must define."""
        return {name for name, one in self.members.items() if "abstractmethod" in one.decorators}

    @property
    def decorators(self) -> set[str]:
        """Last names of the decorators of a function."""
        return {_last(one) for one in getattr(self.node, "decorator_list", [])}

    def signature(self, *, of_class: bool = False) -> Signature | None:
        """How it is called: with `of_class`, as an attribute of its class, else of an object.

        None if that cannot be seen.
        """
        if isinstance(self.node, ast.ClassDef):
            begin = self.members.get("__init__")
            return begin.signature() if begin is not None else self._fields()
        if not isinstance(self.node, Function):
            return None
        method = self.node.args.args[:1] and self.node.args.args[0].arg in ("self", "cls")
        bound = bool(method) and (not of_class or "classmethod" in self.decorators)
        return Signature.of(self.node.args, bound=bound)

    def _fields(self) -> Signature | None:
        """Of the constructor that a data class is given for its fields."""
        fields = [
            (name, one.node)
            for name, one in self.members.items()
            if isinstance(one.node, ast.AnnAssign) and not name.startswith("_")
        ]
        if self.is_open:
            return None
        names = tuple(name for name, _ in fields)
        required = frozenset(name for name, node in fields if node.value is None)
        return Signature(names, (), required, rest=False, more=False)


class Sources:
    """The sources of vLLM in a folder.

    Args:
        root: the folder that holds the package ``vllm``.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._trees: dict[str, tuple[ast.Module, bool] | None] = {}

    def module(self, name: str) -> Found | None:
        """A module or package, by its full name."""
        tree = self._tree(name)
        return Found(self, name, tree[0]) if tree is not None else None

    def find(self, module: str, name: str, depth: int = 8) -> Found | None:
        """What a name means in a module, wherever it is defined; None if that is not in vLLM."""
        tree = self._tree(module)
        if tree is None or not depth:
            return None
        for node in _flat(tree[0]):
            if name in _defined(node):
                return Found(self, module, node)
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        source = self._absolute(module, node)
                        return self.find(source, alias.name, depth - 1)
        return self.module(f"{module}.{name}") or self._lazy(module, tree[0], name, depth)

    def _lazy(self, module: str, tree: ast.Module, name: str, depth: int) -> Found | None:
        """A name that a package imports when it is first used: it has a table of them."""
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values, strict=True):
                    if (
                        isinstance(key, ast.Constant)
                        and key.value == name
                        and isinstance(value, ast.Constant)
                    ):
                        place, _, target = str(value.value).partition(":")
                        whole = f"{module}{place}" if place.startswith(".") else place
                        return self.find(whole, target or name, depth - 1)
        return None

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        tree = self._trees[module]
        assert tree is not None
        parts = module.split(".")
        kept = parts[: len(parts) - node.level + tree[1]]
        return ".".join([*kept, *filter(None, [node.module])])

    def _tree(self, name: str) -> tuple[ast.Module, bool] | None:
        """The tree of a module, and whether it is a package."""
        if name not in self._trees:
            self._trees[name] = None
            path = self._root.joinpath(*name.split("."))
            for file, package in ((path.with_suffix(".py"), False), (path / "__init__.py", True)):
                if file.is_file():
                    self._trees[name] = (ast.parse(file.read_text()), package)
        return self._trees[name]


def _flat(tree: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a module, and those below its conditions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _flat(node)
        elif isinstance(node, ast.stmt):
            yield node


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement defines, imports from elsewhere excepted."""
    if isinstance(node, ast.ClassDef | Function):
        return {node.name}
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return {node.target.id}
    if isinstance(node, ast.Assign):
        targets = (one for target in node.targets for one in ast.walk(target))
        return {one.id for one in targets if isinstance(one, ast.Name)}
    if isinstance(node, ast.Import):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return set()


def _own(node: ast.ClassDef) -> Iterator[tuple[str, ast.AST]]:
    """The names that a class itself gives: what its methods assign, then what stands in it."""
    for inner in ast.walk(node):
        match inner:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name, inner
    for statement in _flat(node):
        for name in _defined(statement):
            yield name, statement


def _last(node: ast.AST) -> str:
    """The last name of an expression such as ``a.b[c]`` or ``a.b(c)``."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(value=inner) | ast.Call(func=inner):
            return _last(inner)
    return ""
