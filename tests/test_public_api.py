"""The surface: what is public, what it is called, and that each piece of it is explained."""

from __future__ import annotations

import copy
import importlib
import inspect
import pkgutil
import re
import types
from importlib import metadata
from multiprocessing.reduction import ForkingPickler  # noqa: TID251 - programs that use us have process pools

import pytest

import taskcore
from taskcore import errors

ADAPTERS = ("taskcore.backends.", "taskcore.stores.")


def modules():
    """Find every module that can be imported without extras."""
    for found in pkgutil.walk_packages(taskcore.__path__, "taskcore."):
        if found.name == "taskcore.__main__" or (found.name.startswith(ADAPTERS) and "memory" not in found.name):
            continue
        try:
            yield importlib.import_module(found.name)
        except ImportError as error:
            if error.name and error.name.partition(".")[0] in (
                "redis",
                "aio_pika",
                "aiormq",
                "nats",
                "psycopg",
                "click",
                "rich",
            ):
                continue
            raise


MODULES = {module.__name__: module for module in modules()}


def test_public_names():
    """Taskcore offers what __all__ says, and nothing that looks public beyond it."""
    visible = {
        name
        for name in dir(taskcore)
        if not name.startswith("_") and not isinstance(getattr(taskcore, name), types.ModuleType)
    }

    assert visible == set(taskcore.__all__)
    assert sorted(taskcore.__all__) == taskcore.__all__


def test_the_version_is_that_of_the_package():
    """`taskcore.__version__` and the metadata of the installed package are the same."""
    assert taskcore.__version__ == metadata.version("taskcore-framework")


@pytest.mark.parametrize("name", [name for name in taskcore.__all__ if not name.startswith("Job") or name == "Job"])
def test_public_names_are_explained(name):
    """Each public name has a docstring of its own."""
    value = getattr(taskcore, name)

    assert (value.__doc__ or "").strip()
    assert not value.__doc__.startswith(f"{name}(")


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_all_is_what_a_module_defines(module):
    """A module's __all__ names what exists, and each public class and function that it defines."""
    names = getattr(module, "__all__", [])
    missing = [name for name in names if not hasattr(module, name)]
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }

    assert missing == []
    assert len(names) == len(set(names))
    if module.__name__.count(".") == 1 and names:  # of inner modules, __all__ says what the others may use
        assert {name for name in defined if getattr(getattr(module, name), "__doc__", None) is None} == set()


@pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)
def test_public_things_have_docstrings(module):
    """What a module's __all__ names is explained, its public methods too."""
    unexplained = []
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)) or value.__module__ != module.__name__:
            continue
        if not inspect.getdoc(value):
            unexplained.append(name)
        for method, body in vars(value).items() if inspect.isclass(value) else ():
            function = body.fget if isinstance(body, property) else getattr(body, "__func__", body)
            if inspect.isfunction(function) and not method.startswith("_") and not inspect.getdoc(function):
                unexplained.append(f"{name}.{method}")

    assert unexplained == []


# ── errors ───────────────────────────────────────────────────────────────────────────────────────


ERRORS = [
    value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, errors.TaskcoreError)
]
LINE = re.compile(r"(?P<indent>[ │├└─]*)(?P<name>[A-Z]\w+)(?: +(?P<code>TC\d{3}) +\((?P<builtin>\w+)\))?(?: |$)")


def tree():
    """Read the tree at the top of errors.py: name → parent, code, builtin."""
    drawn, path = {}, {}
    for line in inspect.getdoc(errors).splitlines():
        found = LINE.match(line)
        if found is None or ("─" not in line and found["name"] != "TaskcoreError"):
            continue
        depth = len(found["indent"]) // 4
        path[depth] = found["name"]
        drawn[found["name"]] = (path.get(depth - 1), found["code"], found["builtin"])
    return drawn


def test_the_tree_is_complete():
    """Every error stands in the tree, and every name in the tree is an error."""
    assert set(tree()) == {error.__name__ for error in ERRORS} == {*errors.__all__}


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_errors_are_what_the_tree_says(error):
    """Parent, code and builtin are those of the drawing."""
    parent, code, builtin = tree()[error.__name__]

    if parent:
        assert getattr(errors, parent) in error.__bases__
    if code:
        assert error.code == code
        assert issubclass(error, getattr(__import__("builtins"), builtin))


def test_codes_are_unique():
    """A code means one error."""
    codes = [error.code for error in ERRORS if tree()[error.__name__][1]]

    assert len(codes) == len(set(codes))


def to_another_process(error):
    """Send an error as multiprocessing and process pools do."""
    return ForkingPickler.loads(ForkingPickler.dumps(error))


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, to_another_process])
def test_errors_travel(error, travel):
    """Copied or pickled, an error keeps its text, its facts, its fix and whatever was said about it."""
    made = error("it happened", facts=["one", "two"], fix="do something")
    made.job_id = "7"
    arrived = travel(made)

    assert type(arrived) is error
    assert str(arrived) == str(made)
    assert (arrived.what, arrived.facts, arrived.fix, arrived.job_id) == (made.what, made.facts, made.fix, "7")


def test_an_error_has_code_facts_and_fix():
    """Code and sentence, the facts, what to do."""
    error = errors.InvalidURL("it happened", facts=["one", "two"], fix="do something")

    assert str(error) == "[TC103] it happened\n  one\n  two\n  fix: do something"
