"""Measure a Python file: plain functions that know nothing of jobs."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from bisect import bisect
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["BUCKETS", "Function", "ModuleFacts", "NotPython", "analyse", "decode"]

BUCKETS = (1, 6, 11, 21, 41)  #: the least complexity of each column of the histogram


class NotPython(Exception):
    """A file that this Python cannot read: the compiler's message, and the line."""

    def __init__(self, kind: str, problem: str, line: int = 0) -> None:
        super().__init__(kind, problem, line)
        self.kind = kind
        self.problem = problem
        self.line = line

    def __str__(self) -> str:
        return f"{self.problem} (line {self.line})" if self.line else self.problem


@dataclass(frozen=True)
class Function:
    """A notable function: its place, its length, its complexity."""

    name: str
    line: int
    lines: int
    complexity: int


@dataclass(frozen=True)
class ModuleFacts:
    """Facts about a module, from its syntax tree.

    :param documented: how many of the ``documentable`` (the module, its classes and its functions) have a docstring.
    :param imports: the top-level names that it imports.
    :param complexities: how many functions are in each of ``BUCKETS``.
    :param warnings: how many warnings the compiler has, such as unknown escapes in strings.
    """

    classes: int
    functions: int
    documentable: int
    documented: int
    imports: tuple[str, ...]
    complexities: tuple[int, ...]
    longest: Function | None
    most_complex: Function | None
    warnings: int


def decode(data: bytes) -> tuple[str, str]:
    """Return the encoding that a file declares, and its text.

    :raises NotPython: the declared encoding does not exist, or the bytes do not follow it.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return encoding, data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problem = f"byte 0x{data[error.start]:02x} is not {error.encoding}"
        raise NotPython("bad encoding", problem, line) from None
    except SyntaxError as error:
        raise NotPython("bad encoding", error.msg) from None


def analyse(data: bytes) -> ModuleFacts:
    """Parse a module and measure it.

    :raises NotPython: it cannot be parsed.
    """
    with warnings.catch_warnings(record=True) as findings:  # global to a process: do not do this in threads
        warnings.simplefilter("always")
        tree = _parse(data)
    seen = _survey(tree)
    functions = [
        _measure(scope.node, scope.complexity) for scope in seen.scopes if not isinstance(scope.node, ast.Module)
    ]
    documentable = [*seen.classes, *(scope.node for scope in seen.scopes)]
    return ModuleFacts(
        classes=len(seen.classes),
        functions=len(functions),
        documentable=len(documentable),
        documented=sum(ast.get_docstring(node, clean=False) is not None for node in documentable),
        imports=tuple(sorted(seen.imports)),
        complexities=_histogram(functions),
        longest=max(functions, key=lambda function: function.lines, default=None),
        most_complex=max(functions, key=lambda function: function.complexity, default=None),
        warnings=len(findings),
    )


def _parse(data: bytes) -> ast.Module:
    try:
        return ast.parse(data)
    except SyntaxError as error:
        kind = "wrong indentation" if isinstance(error, IndentationError) else "syntax error"
        if "null bytes" in error.msg:
            kind = "null bytes"
        elif "codec" in error.msg or "encoding" in error.msg:
            kind = "bad encoding"
        raise NotPython(kind, error.msg, error.lineno or 0) from None
    except ValueError as error:  # null bytes, before Python 3.12
        raise NotPython("null bytes", str(error)) from None
    except (RecursionError, MemoryError):
        raise NotPython("too deep", "nested more deeply than the compiler can follow") from None


# ── the syntax tree ──────────────────────────────────────────────────────────────────────────────

_LEAVES = (ast.Name, ast.Constant, ast.Pass, ast.Break, ast.Continue, ast.alias, ast.expr_context, ast.operator)
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case)


_Def: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


class _Scope:
    """A function or the module while it is measured. Complexity is the number of paths, after McCabe."""

    __slots__ = ("complexity", "node")

    def __init__(self, node: _Def | ast.Module) -> None:
        self.node = node
        self.complexity = 1


class _Seen:
    """The findings of a survey; the first scope is the module."""

    def __init__(self, tree: ast.Module) -> None:
        self.scopes = [_Scope(tree)]
        self.classes: list[ast.ClassDef] = []
        self.imports: set[str] = set()


def _survey(tree: ast.Module) -> _Seen:
    """Walk over all nodes once, with a list as the stack: a tree can be deeper than the recursion limit."""
    seen = _Seen(tree)
    todo: list[tuple[ast.AST, _Scope]] = [(tree, seen.scopes[0])]
    while todo:
        node, scope = todo.pop()
        if isinstance(node, _LEAVES):
            continue
        if isinstance(node, _BRANCHES):
            scope.complexity += 1
        elif isinstance(node, ast.BoolOp):
            scope.complexity += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            scope.complexity += 1 + len(node.ifs)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            scope = _Scope(node)
            seen.scopes.append(scope)
        elif isinstance(node, ast.ClassDef):
            seen.classes.append(node)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            seen.imports.update(_imported(node))
        todo += [(child, scope) for child in ast.iter_child_nodes(node)]
    return seen


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name.partition(".")[0] for alias in node.names]
    return [node.module.partition(".")[0]] if node.module and not node.level else []


def _measure(node: _Def, complexity: int) -> Function:
    return Function(node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1, complexity)


def _histogram(functions: list[Function]) -> tuple[int, ...]:
    counts = [0] * len(BUCKETS)
    for function in functions:
        counts[bisect(BUCKETS, function.complexity) - 1] += 1
    return tuple(counts)
