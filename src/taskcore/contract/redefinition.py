"""Whether a task was defined anew by the same code, or whether two functions claim one name.

importlib.reload, python -m pkg.mod beside import pkg.mod      the same function of the same file, once in it
a notebook's cell, changed or run again; a prompt              the newer definition of the same name
two functions of one name in a file, or in two                 a mistake
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["is_redefinition"]

Function = Callable[..., Any]


def is_redefinition(earlier: Function, later: Function) -> bool:
    """Tell whether the later function is the earlier one, defined again."""
    if earlier.__qualname__ != later.__qualname__ or "<locals>" in earlier.__qualname__:
        return False
    one, other = (inspect.unwrap(function).__code__ for function in (earlier, later))
    is_same_line = one.co_firstlineno == other.co_firstlineno
    if _is_cell(one.co_filename) and _is_cell(other.co_filename):
        return bool(is_same_line or one.co_filename != other.co_filename)
    if os.path.normcase(one.co_filename) != os.path.normcase(other.co_filename):
        return False
    return bool(is_same_line) or _definitions(other.co_filename, later.__qualname__) == 1  # edited before a reload


def _is_cell(filename: str) -> bool:
    return filename.startswith("<") or "ipykernel" in filename


def _definitions(filename: str, qualname: str) -> int:
    """Count the definitions of a function that the file has now; 0 if it cannot be read."""
    try:
        with open(filename, "rb") as file:  # noqa: PTH123 - a file that may be gone, or no path at all
            tree = ast.parse(file.read())
    except (OSError, ValueError, SyntaxError):
        return 0
    return sum(name == qualname for name in _names(tree, ""))


def _names(node: ast.AST, prefix: str) -> Iterator[str]:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{inner.name}"
        elif isinstance(inner, ast.ClassDef):
            yield from _names(inner, f"{prefix}{inner.name}.")
        else:
            yield from _names(inner, prefix)
