"""Docstrings and comments name only what exists: names that were changed must change there too."""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.layout import ROOT

FILES = sorted(ROOT.rglob("*.py"))
QUOTED = re.compile(r"(?<!`)`([A-Za-z_][\w./]*)(?:\(\))?`(?!`)")
SECTION = re.compile(r"^ *(Args|Attributes):\n((?: +.*\n|\n)+)", re.MULTILINE)
ITEM = re.compile(r"([\w, ]+): ")
FOREIGN = {"tokenizers", "sync_load_budget_bytes"}
"""Names of other programs that the code itself does not use."""

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@cache
def identifiers() -> frozenset[str]:
    """Every name that the code uses or defines, and words that it has as strings."""
    found = set(dir(builtins)) | FOREIGN
    for file in FILES:
        found.update(file.relative_to(ROOT.parent).with_suffix("").parts)
        for node in ast.walk(_tree(file)):
            found.update(_names(node))
    return frozenset(found)


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(name) | ast.Attribute(attr=name) | ast.arg(name):
            yield name
        case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
            yield name
        case ast.alias(name, short):
            yield from (*name.split("."), short or "")
        case ast.keyword(arg=str(name)):
            yield name
        case ast.Constant(value=str(text)) if text.isidentifier():
            yield text
        case _:
            pass


def prose(file: Path) -> Iterator[str]:
    """All docstrings and comments of a file."""
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(_tree(file)):
        match node:
            case ast.Expr(ast.Constant(value=str(text))):
                yield text
            case _:
                pass


def exists(name: str) -> bool:
    """Whether a name in backticks stands for something: a file, or names of the code."""
    if name.endswith(".py"):
        return (ROOT.parent / name).is_file() or any(one.match(name) for one in FILES)
    return all(part in identifiers() for part in re.split(r"[./]", name) if part)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_in_backticks_exist(file: Path) -> None:
    quoted = {name for text in prose(file) for name in QUOTED.findall(text)}
    assert [name for name in sorted(quoted) if not exists(name)] == []


def documented(file: Path) -> Iterator[tuple[str, str, set[str]]]:
    """Each name in a section of a docstring: the section, the name, and names that may be there."""
    for node in ast.walk(_tree(file)):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = (ast.get_docstring(node) or "") + "\n"
        for section, body in SECTION.findall(text):
            for name in _items(body):
                yield section, name, _members(node)


def _items(body: str) -> Iterator[str]:
    lines = [line for line in body.splitlines() if line.strip()]
    indent = len(lines[0]) - len(lines[0].lstrip())
    for line in lines:
        if len(line) - len(line.lstrip()) < indent:
            return
        if line[indent] != " " and (item := ITEM.match(line, indent)):
            yield from (name.strip() for name in item.group(1).split(","))


def _members(node: ast.AST) -> set[str]:
    """Parameters, attributes and fields that a class or function has."""
    found: set[str] = set()
    for one in ast.walk(node):
        match one:
            case ast.arg(name) | ast.Attribute(attr=name) | ast.Name(name):
                found.add(name)
            case ast.FunctionDef(name):
                found.add(name)
            case _:
                pass
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_documented_arguments_and_attributes_exist(file: Path) -> None:
    assert [(kind, name) for kind, name, known in documented(file) if name not in known] == []
