"""A definition that is run again replaces the earlier one; two functions with one name are refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from taskcore import App, DuplicateTask

WRAPPER = """
import functools
def plain(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)
    return inner
"""
GREET = "from again_app import app\n\n@app.task\ndef greet(name: str) -> str:\n    return 'hello ' + name\n"


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """Give the modules of a test an app to declare their tasks on."""
    home = types.ModuleType("again_app")
    home.app = App("memory://")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "again_app", home)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield home.app
    for name in ("again_cell", "again_other"):
        sys.modules.pop(name, None)


def imported(folder: Path, source: str, name: str = "again_cell") -> ModuleType:
    """Write a module and import it; again, if it is imported already."""
    (folder / f"{name}.py").write_text(source)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    importlib.invalidate_caches()
    try:
        return importlib.reload(sys.modules[name]) if name in sys.modules else importlib.import_module(name)
    finally:
        sys.dont_write_bytecode = before


@pytest.mark.parametrize(
    "edited",
    [
        GREET,
        f"# moved\n\n{GREET}",
        GREET.replace("'hello '", "'good day '"),
        GREET.replace("name: str", "name: str, times: int = 1"),
    ],
)
def test_a_reload_replaces_the_task(app: App, tmp_path: Path, edited: str) -> None:
    """Also if the function was moved or changed in its file."""
    first = imported(tmp_path, GREET).greet
    second = imported(tmp_path, edited).greet
    assert second is not first
    assert app.tasks == {"again_cell.greet": second}
    assert second.call("Ada").payload


def test_two_functions_in_one_file_are_refused(app: App, tmp_path: Path) -> None:
    """The second definition would hide the first."""
    twice = GREET + "\n@app.task\ndef greet(name: str) -> str:\n    return name\n"
    with pytest.raises(DuplicateTask, match=r"again_cell.py:3\n.*again_cell.py:7"):
        imported(tmp_path, twice)


def test_two_files_are_refused(app: App, tmp_path: Path) -> None:
    """One name for the functions of two modules is a mistake, also if they are the same text."""
    source = GREET.replace("@app.task", "@app.task(name='shop.greet')")
    imported(tmp_path, source)
    with pytest.raises(DuplicateTask):
        imported(tmp_path, source, "again_other")


def test_two_functions_of_other_names_are_refused(app: App, tmp_path: Path) -> None:
    """One file, one task name, two functions."""
    source = GREET.replace("@app.task", "@app.task(name='shop.greet')")
    with pytest.raises(DuplicateTask):
        imported(tmp_path, source + "\n@app.task(name='shop.greet')\ndef leave(name: str) -> str:\n    return name\n")


def test_functions_that_share_a_wrapper_are_refused(app: App, tmp_path: Path) -> None:
    """The code of a decorator is the same for all that it wraps; the functions inside are not."""
    (tmp_path / "again_wrap.py").write_text(WRAPPER)
    source = "from again_wrap import plain\n" + GREET.replace("@app.task", "@app.task(name='shop.greet')\n@plain")
    imported(tmp_path, source)
    with pytest.raises(DuplicateTask):
        imported(tmp_path, source, "again_other")


@pytest.mark.parametrize(
    "cells",
    [
        ("<ipython-input-1-a>", "<ipython-input-2-b>"),
        ("/tmp/ipykernel_7/1.py", "/tmp/ipykernel_7/2.py"),
        ("<stdin>", "<stdin>"),
    ],
)
def test_a_cell_that_is_run_again_replaces_the_task(cells: tuple[str, str]) -> None:
    """In a notebook and at a prompt the newer definition counts."""
    app = App("memory://")
    names = {"app": app, "__name__": "__main__"}
    for place, cell in enumerate(cells):
        exec(
            compile(f"@app.task(name='cell.greet')\ndef greet(n: int) -> int: return n + {place}\n", cell, "exec"),
            names,
        )
    assert app.tasks["cell.greet"] is names["greet"]
    assert app.tasks["cell.greet"](1) == 2


@pytest.mark.parametrize("module", ["<run_path>", "<string>", "<stdin>", "<doctest>"])
def test_code_that_is_no_module_declares_tasks_of_main(module: str) -> None:
    """The module name that runpy, exec and others give such code is not used: its tasks are named like a script's."""
    names = {"app": App("memory://"), "__name__": module}
    exec(compile("@app.task\ndef greet() -> None: ...\n", module, "exec"), names)
    assert list(names["app"].tasks) == ["main.greet"]


def test_two_functions_in_one_cell_are_refused() -> None:
    """A script on standard input is one text, so a second definition is a mistake there."""
    text = "@app.task(name='g')\ndef g() -> None: ...\n\n@app.task(name='g')\ndef g() -> None: ...\n"
    with pytest.raises(DuplicateTask):
        exec(compile(text, "<stdin>", "exec"), {"app": App("memory://"), "__name__": "__main__"})


MODULE_AND_PROGRAM = """
from taskcore import App
app = App("memory://")
import again_pkg.tasks
"""
TASKS = """
from again_pkg import app
@app.task(name="greet")
def greet(name: str) -> str:
    return name
if __name__ == "__main__":
    import again_pkg.tasks
    print(list(app.tasks))
"""


def test_a_module_that_runs_as_program_and_is_imported(tmp_path: Path) -> None:
    """``python -m`` runs a module a second time, under the name ``__main__``."""
    package = tmp_path / "again_pkg"
    package.mkdir()
    (package / "__init__.py").write_text(MODULE_AND_PROGRAM)
    (package / "tasks.py").write_text(TASKS)
    command = [sys.executable, "-W", "ignore", "-m", "again_pkg.tasks"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout) == (0, "['greet']\n"), done.stderr


@pytest.mark.parametrize("how", [["-"], ["-c"]])
def test_a_program_without_a_file_names_its_tasks(how: list[str], tmp_path: Path) -> None:
    """A text on standard input or in an argument is called ``main``."""
    text = "from taskcore import App\napp = App('memory://')\n@app.task\ndef g() -> None: ...\nprint(g.name)\n"
    given = {"input": text} if how == ["-"] else {}
    command = [sys.executable, *how, *([] if given else [text])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=False, **given)
    assert (done.returncode, done.stdout) == (0, "main.g\n"), done.stderr
