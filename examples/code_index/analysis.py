"""What a Python file is made of: plain functions that know nothing of jobs."""

from __future__ import annotations

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["BUCKETS", "Function", "ModuleFacts", "NotPython", "analyse", "decode"]

BUCKETS = (1, 6, 11, 21, 41)  #: the least complexity of each column of the histogram


class NotPython(Exception):
    """A file that no Python can read: what is wrong with it, in the compiler's words, and on which line."""

    def __init__(self, kind: str, problem: str, line: int = 0) -> None:
        super().__init__(kind, problem, line)
        self.kind = kind
        self.problem = problem
        self.line = line

    def __str__(self) -> str:
        return f"{self.kind}: {self.problem}" + (f" (line {self.line})" if self.line else "")


@dataclass(frozen=True)
class Function:
    """A function that stands out: where it is, how long, how complex."""

    name: str
    line: int
    lines: int
    complexity: int


@dataclass(frozen=True)
class ModuleFacts:
    """What the syntax tree of a module tells.

    :param documented: how many of the ``documentable`` (the module, its classes and its functions) have a docstring.
    :param imports: the top-level names that it imports.
    :param complexities: how many functions are in each of ``BUCKETS``.
    :param warnings: what the compiler finds odd, such as unknown escapes in strings.
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
    """The encoding that a file declares, and its text.

    :raises NotPython: it declares one that does not exist, or does not keep to it.
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
    functions: list[Function] = []
    classes = documented = 0
    imports: set[str] = set()
    for node, inside in _walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions.append(_measure(node, inside))
                documented += _has_docstring(node)
            case ast.ClassDef():
                classes += 1
                documented += _has_docstring(node)
            case ast.Module():
                documented += _has_docstring(node)
            case ast.Import():
                imports.update(alias.name.partition(".")[0] for alias in node.names)
            case ast.ImportFrom(module=str(name), level=0):
                imports.add(name.partition(".")[0])
    return ModuleFacts(
        classes=classes,
        functions=len(functions),
        documentable=1 + classes + len(functions),
        documented=documented,
        imports=tuple(sorted(imports)),
        complexities=_histogram(functions),
        longest=max(functions, key=lambda function: function.lines, default=None),
        most_complex=max(functions, key=lambda function: function.complexity, default=None),
        warnings=len(findings),
    )
