"""The small examples: each one runs as its first lines say, and prints what they say."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples"
EXAMPLES = sorted(FOLDER.glob("[!_]*.py"))

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the examples are in the checkout only")
each = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)


def docstring(example: Path) -> str:
    """Return the text at the top of an example."""
    return ast.get_docstring(ast.parse(example.read_text())) or ""


@each
@pytest.mark.timeout(60)
def test_an_example_prints_what_it_says(example: Path) -> None:
    """The command in the docstring works in the checkout, in an environment without settings, and ends well."""
    command, *expected = [line.strip() for line in docstring(example).splitlines()[2:]]
    programs = {f"$ python examples/{example.name}": [], f"$ pytest examples/{example.name}": ["-m", "pytest", "-q"]}
    ran = subprocess.run(
        [sys.executable, *programs[command], example],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("TASKCORE_", "PYTEST_"))},
        capture_output=True,
        encoding="utf-8",
        timeout=50,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    if command.startswith("$ python"):
        assert expected
        assert ran.stdout.splitlines() == expected


@each
def test_an_example_is_small(example: Path) -> None:
    """Between 15 and 40 lines of code: no less than a program, no more than a screen."""
    code = example.read_text().split('"""', 2)[2]
    assert 15 <= sum(bool(line.strip()) for line in code.splitlines()) <= 40


def test_the_list_of_examples_is_complete() -> None:
    """The README has a row for each example, with the sentence that it begins with."""
    rows = dict(re.findall(r"^\| \[`(\w+\.py)`\]\(\1\) \| (.*) \|$", (FOLDER / "README.md").read_text(), re.MULTILINE))
    assert rows == {example.name: docstring(example).splitlines()[0].rstrip(".") for example in EXAMPLES}
