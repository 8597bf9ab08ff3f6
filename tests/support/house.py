"""Measure the house rules: how large, how wide and how alike the parts of ``src/taskcore`` are.

    python tests/support/house.py            list every offence, and say which ones are not recorded
    python tests/support/house.py --write    lower what is recorded to what is there; never raise it

A measure maps an offender to a number above what the rule allows. ``budgets.json`` records the offences that exist;
``tests/test_house.py`` refuses a new offender and a number that has grown.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import json
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TypeAlias

__all__ = ["MEASURES", "RECORDED", "SOURCE", "offences", "recorded"]

SOURCE = Path(__file__).parents[2] / "src" / "taskcore"
RECORDED = Path(__file__).with_name("budgets.json")

FILE_LINES, FUNCTION_LINES, CONSTRUCTOR_PARAMETERS, CORE_IMPORTS = 350, 60, 8, 12
#: Lines of code: no blank lines, comments and docstrings, whose number should not be an argument (docs/adr/0013).
CORE_CODE, BACKEND_CODE, CONNECTION_CODE = 7_500, 1_550, 950

ADAPTERS = ("backends", "stores", "connections")
TEST_KIT = ("testing", "conformance", "faults", "bench")
FEATURES = (
    "processes",
    "blocking",
    "cancelling",
    "dependencies",
    "events",
    "keeping",
    "parking",
    "progress",
    "schedules",
    "workflows",
    "supervisor",
    "deadletter",
    "soft_timeouts.py",
    "roster.py",
    "waits.py",
    "joint_ends.py",
)  # rooms that may be deleted: what they add goes, the core stays
NOT_CORE = (*ADAPTERS, *FEATURES, *TEST_KIT, "toolkit", "cli", "preflight.py", "__main__.py")
CLIENTS = ("aio_pika", "aiormq", "nats", "psycopg", "redis")

#: The files of an adapter, each for one role. Beside those of a sender, a reader and an administrator:
#:   delays     what makes a job wait on a server that cannot delay messages
#:   ledger     every queue, job and lease of a backend that is its own broker
#:   batches    many reads or writes of a store in few commands of its server
#:   watches    how a store learns of written records that are watched
#:   complete   the outcome of a key, committed in a transaction of the program's own
ADAPTER_FILES = {
    "backends": {
        "__init__.py", "backend.py", "publish.py", "source.py", "consumer.py", "settle.py", "delays.py", "admin.py",
        "letters.py", "layout.py", "messages.py", "diagnose.py", "ledger.py",
    },
    "stores": {
        "__init__.py", "store.py", "layout.py", "diagnose.py", "batches.py", "watches.py", "complete.py",
    },
}  # fmt: skip

NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)

#: Names that stand for one role in every adapter: what proves a lease.
ROLES = ("Receipt",)

#: A name in the spelling of a class that is assigned at the top of a module.
ALIAS_NAME = re.compile(r"_?[A-Z]\w*[a-z]")

#: Where the verb of the seam is called: the settler, and the wrappers around the seam.
SETTLES = ("worker/settle.py", "observe.py", "middleware.py")
STARTS_TASKS = ("toolkit/tasks.py",)
NAMES_RECORDS = ("records/names.py",)
RECORD_NAME = re.compile(r"(job|cancel|start|outlived|key)/")

Offences: TypeAlias = dict[str, int]


def files(root: Path) -> Iterator[tuple[str, str]]:
    """Yield every Python file below ``root``: its path from there, and its text."""
    for path in sorted(root.rglob("*.py")):
        yield path.relative_to(root).as_posix(), path.read_text()


@cache
def parsed(text: str) -> ast.Module:
    """Parse a file once for all measures."""
    return ast.parse(text)


def is_core(path: str) -> bool:
    """Tell whether a file is one that every job needs: no adapter, no program, no test kit."""
    return not path.startswith(tuple(f"{room}/" for room in NOT_CORE)) and path not in NOT_CORE


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────


def long_files(root: Path) -> Offences:
    """Count the lines of each file above the budget."""
    sizes = {path: len(text.splitlines()) for path, text in files(root)}
    return {path: size for path, size in sizes.items() if size > FILE_LINES}


def long_functions(root: Path) -> Offences:
    """Count the lines of each function above the budget."""
    found: Offences = {}
    for path, text in files(root):
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES:
                    found[f"{path}:{node.name}"] = size
    return found


def wide_constructors(root: Path) -> Offences:
    """Count the parameters of each constructor above the budget."""
    found: Offences = {}
    for path, node in classes(root):
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                given = method.args
                number = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
                if number > CONSTRUCTOR_PARAMETERS:
                    found[f"{path}:{node.name}"] = number
    return found


def wide_imports(root: Path) -> Offences:
    """Count the modules of ours that a core module imports, above the budget."""
    found: Offences = {}
    for path, text in files(root):
        names: set[str] = set()
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("taskcore"):
                names.add(node.module or "")
            elif isinstance(node, ast.Import):
                names |= {one.name for one in node.names if one.name.startswith("taskcore")}
        if is_core(path) and not path.endswith("__init__.py") and len(names) > CORE_IMPORTS:
            found[path] = len(names)
    return found


def large_parts(root: Path) -> Offences:
    """Count the lines of code of the core, of each backend and of each kind of connection, above the budget."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for path, text in files(root):
        room, _, rest = path.partition("/")
        if is_core(path):
            sizes["core"] += code_lines(text)
        elif room in ("backends", "connections") and "/" in rest:
            sizes[f"{room}/{rest.partition('/')[0]}"] += code_lines(text)
    budgets = {"core": CORE_CODE, "backends": BACKEND_CODE, "connections": CONNECTION_CODE}
    return {part: size for part, size in sizes.items() if size > budgets[part.partition("/")[0]]}


@cache
def code_lines(text: str) -> int:
    """Count the lines that hold code: no blank lines, no comments, no docstrings."""
    docs: set[int] = set()
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docs.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docs)


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def classes(root: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yield every class, with the path of its file."""
    for path, text in files(root):
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.ClassDef):
                yield path, node


def shared_class_names(root: Path) -> Offences:
    """Count the meanings of each name of a class or a type that has more than one; equal aliases mean the same."""
    meanings: defaultdict[str, set[str]] = defaultdict(set)
    for path, node in classes(root):
        meanings[node.name].add(f"{path}:{node.lineno}")
    for name, value in aliases(root):
        meanings[name].add(value)
    return {name: len(found) for name, found in meanings.items() if len(found) > 1 and name not in ROLES}


def aliases(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the definition of every alias of a type at the top of a module; no type variables."""
    for _, text in files(root):
        for node in parsed(text).body:
            targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            value = ast.unparse(node.value) if isinstance(node, ast.Assign | ast.AnnAssign) and node.value else ""
            if value.startswith(("TypeVar(", "ParamSpec(")):
                continue
            for target in targets:
                if isinstance(target, ast.Name) and ALIAS_NAME.match(target.id):
                    yield target.id, value


def other_adapter_files(root: Path) -> Offences:
    """Find the files of an adapter that have none of the agreed names."""
    found: Offences = {}
    for path, _ in files(root):
        room, *folders, name = (path if "/" in path else f"/{path}").split("/")
        if folders and room in ADAPTER_FILES and name not in ADAPTER_FILES[room]:
            found[path] = 1
    return found


# ── places ───────────────────────────────────────────────────────────────────────────────────────


def settling(root: Path) -> Offences:
    """Count the calls of ``settle`` outside the settler and the adapters."""
    return _calls(root, {"settle"}, allowed=SETTLES, rooms=(*ADAPTERS, *TEST_KIT))


def starting_tasks(root: Path) -> Offences:
    """Count the places that start an asyncio task by hand."""
    return _calls(root, {"create_task", "ensure_future"}, allowed=STARTS_TASKS)


def _calls(root: Path, names: set[str], *, allowed: tuple[str, ...], rooms: tuple[str, ...] = ()) -> Offences:
    found: defaultdict[str, int] = defaultdict(int)
    for path, text in files(root):
        if path in allowed or path.startswith(tuple(f"{room}/" for room in rooms)):
            continue
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
                found[path] += 1
    return dict(found)


def record_names(root: Path) -> Offences:
    """Count the literal names of records outside the one table of them; the test kit reads records by itself."""
    found: defaultdict[str, int] = defaultdict(int)
    for path, text in files(root):
        if path in NAMES_RECORDS or path.startswith(tuple(f"{room}/" for room in (*ADAPTERS, *TEST_KIT))):
            continue
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):  # also the first part of an f-string
                found[path] += RECORD_NAME.match(node.value) is not None
    return {path: number for path, number in found.items() if number}


def private_client_names(root: Path) -> Offences:
    """Find the private names of client libraries: on foreign objects, by ``getattr``, and in subclasses of theirs."""
    found: Offences = {}
    for path, text in files(root):
        if not path.startswith(tuple(f"{room}/" for room in ADAPTERS)):
            continue
        tree, ours = parsed(text), _own_private_names(root)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                if not own and node.attr not in ours:
                    found[f"{path}:{node.attr}"] = 1
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                name = node.args[1]
                if isinstance(name, ast.Constant) and _is_private(str(name.value)):
                    found[f"{path}:{name.value}"] = 1
        found |= {f"{path}:{name}": 1 for name in _inherited_private_names(tree)}
    return found


def unexplained_private_names(root: Path) -> Offences:
    """Find the private names of client libraries that no decision in ``docs/adr`` names."""
    decisions = "".join(page.read_text() for page in (root.parents[1] / "docs" / "adr").glob("*.md"))
    used = private_client_names(root)
    return {use: number for use, number in used.items() if f"`{use.partition(':')[2]}`" not in decisions}


def _is_private(name: str) -> bool:
    """Tell private names from public ones, and from those that every named tuple has."""
    return name.startswith("_") and not name.startswith("__") and name not in ("_replace", "_asdict", "_fields")


@cache
def _own_private_names(root: Path) -> frozenset[str]:
    """Collect the private names that classes and modules of ours define."""
    found: set[str] = set()
    for _, text in files(root):
        for node in ast.walk(parsed(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    found.add(node.attr)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)
    return frozenset(name for name in found if _is_private(name))


def _inherited_private_names(tree: ast.Module) -> set[str]:
    """Find what a subclass of a client library's class uses of the private parts of that class."""
    origins = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in CLIENTS
        for alias in node.names
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in origins:
                module, name = origins[base.id]
                cls = getattr(importlib.import_module(str(module)), name)
                theirs = set(re.findall(r"\b_[a-z]\w*", "".join(map(inspect.getsource, _family(cls)))))
                found |= {one for one in _names_in(node) if one in theirs}
    return found


def _family(cls: type) -> list[type]:
    """List a class and its bases in the same library."""
    return [one for one in cls.__mro__ if one.__module__.partition(".")[0] in CLIENTS]


def _names_in(node: ast.ClassDef) -> set[str]:
    used = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    made = {one.name for one in node.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in used | made if _is_private(name)}


MEASURES: Mapping[str, Callable[[Path], Offences]] = {
    f"file: at most {FILE_LINES} lines": long_files,
    f"function: at most {FUNCTION_LINES} lines": long_functions,
    f"constructor: at most {CONSTRUCTOR_PARAMETERS} parameters": wide_constructors,
    f"core module: imports at most {CORE_IMPORTS} of ours": wide_imports,
    "part: lines of code of the core, a backend, a kind of connections": large_parts,
    "class name: one meaning": shared_class_names,
    "adapter: only files of the agreed names": other_adapter_files,
    "settle: called by the settler only": settling,
    "asyncio task: started by the task set only": starting_tasks,
    "record name: written in the table of names only": record_names,
    "client library: private names": private_client_names,
    "client library: private names without a decision in docs/adr": unexplained_private_names,
}


def recorded() -> dict[str, Offences]:
    """Read the recorded offences."""
    return json.loads(RECORDED.read_text()) if RECORDED.exists() else {}


def offences(measure: str, root: Path, known: Mapping[str, int]) -> list[str]:
    """List what breaks a rule and is not recorded, or has grown."""
    return [
        f"{offender}: {number}, {known[offender]} recorded" if offender in known else f"{offender}: {number}"
        for offender, number in MEASURES[measure](root).items()
        if number > known.get(offender, 0)
    ]


def main() -> int:
    """List the offences; with ``--write`` lower the record, and the first time make it."""
    before, now = recorded(), {name: measure(SOURCE) for name, measure in MEASURES.items()}
    if "--write" in sys.argv:
        lowered = {
            name: {
                offender: min(number, before.get(name, {}).get(offender, 0)) if before else number
                for offender, number in sorted(found.items())
                if not before or offender in before.get(name, {})
            }
            for name, found in now.items()
        }
        RECORDED.write_text(json.dumps(lowered, indent=2) + "\n")
    for name, found in now.items():
        print(f"{name}  ({len(found)})")
        print(*(f"    {offender}: {number}" for offender, number in found.items()), sep="\n")
    new = [line for name in MEASURES for line in offences(name, SOURCE, recorded().get(name, {}))]
    print(*(f"not recorded: {line}" for line in new), sep="\n")
    return bool(new)


if __name__ == "__main__":
    sys.exit(main())
