"""The house rules hold: sizes, names and places are within their budgets, or as recorded, and never worse."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import house

ROOT = Path(__file__).parents[1]
if not (ROOT / "scripts").is_dir():
    pytest.skip("a source distribution has no scripts", allow_module_level=True)

#: For each measure a small tree that breaks its rule, and the offender that has to be found.
OFFENCES = {
    long: ({path: text}, offender)
    for long, path, text, offender in [
        (house.long_files, "app.py", "x = 1\n" * 351, "app.py"),
        (house.long_functions, "app.py", "def f():\n" + "    x = 1\n" * 60, "app.py:f"),
        (
            house.wide_constructors,
            "app.py",
            "class A:\n    def __init__(self, a, b, c, d, e, f, g, h, i): ...\n",
            "app.py:A",
        ),
        (
            house.wide_imports,
            "app.py",
            "".join(f"from taskcore.m{number} import x\n" for number in range(13)),
            "app.py",
        ),
        (house.large_parts, "backends/mine/source.py", "x = 1\n" * 1_551, "backends/mine"),
        (house.shared_class_names, "app.py", "class A: ...\nclass B:\n    class A: ...\n", "A"),
        (house.other_adapter_files, "backends/mine/stuff.py", "", "backends/mine/stuff.py"),
        (house.settling, "worker/perform.py", "source.settle([])\n", "worker/perform.py"),
        (house.starting_tasks, "backends/mine/source.py", "asyncio.create_task(x)\n", "backends/mine/source.py"),
        (house.record_names, "results.py", 'name = f"job/{x}"\n', "results.py"),
        (
            house.private_client_names,
            "connections/mine/link.py",
            "client._transport.close()\n",
            "connections/mine/link.py:_transport",
        ),
        (
            house.unexplained_private_names,
            "connections/mine/link.py",
            'getattr(client, "_reader")\n',
            "connections/mine/link.py:_reader",
        ),
    ]
}


@pytest.mark.parametrize("measure", house.MEASURES)
def test_no_new_offence(measure: str) -> None:
    """No part of the library breaks this rule, except as recorded, and no recorded offence has grown."""
    found = house.offences(measure, house.SOURCE, house.recorded().get(measure, {}))
    assert not found, "\n".join([measure, *found])


def test_every_measure_is_recorded() -> None:
    """The record has each measure and nothing else, so a renamed measure does not lose its record."""
    assert set(house.recorded()) == set(house.MEASURES)


@pytest.mark.parametrize("measure", house.MEASURES.values(), ids=lambda measure: measure.__name__)
def test_each_measure_finds_its_offence(measure, tmp_path: Path) -> None:
    """A tree that breaks one rule is found out, and an empty tree is not."""
    root = tmp_path / "src" / "taskcore"
    root.mkdir(parents=True)
    assert measure(root) == {}
    house._own_private_names.cache_clear()
    content, offender = OFFENCES[measure]
    for path, text in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    assert list(measure(root)) == [offender]


def test_an_alias_is_a_name_too(tmp_path: Path) -> None:
    """A class and an alias of its name are two meanings, and so are two aliases; equal aliases are one."""
    (tmp_path / "a.py").write_text("class Kind: ...\nFound = int | None\nAnswer = str\nT = TypeVar('T')\nLIMIT = 1\n")
    (tmp_path / "b.py").write_text("Kind: TypeAlias = str\nFound = list[int]\nAnswer: TypeAlias = str\nLIMIT = 2\n")
    assert house.shared_class_names(tmp_path) == {"Kind": 2, "Found": 2}


def test_growth_is_an_offence(tmp_path: Path) -> None:
    """A recorded number may fall, and a number above it is reported together with the record."""
    (tmp_path / "app.py").write_text("x = 1\n" * 400)
    measure = next(iter(house.MEASURES))
    assert house.offences(measure, tmp_path, {"app.py": 400}) == []
    assert house.offences(measure, tmp_path, {"app.py": 450}) == []
    assert house.offences(measure, tmp_path, {"app.py": 399}) == ["app.py: 400, 399 recorded"]
    assert house.offences(measure, tmp_path, {}) == ["app.py: 400"]


def test_the_budgets_that_people_read_are_the_measured_ones() -> None:
    """The decision on sizes, the one on rooms and the guide for contributors name the numbers that are kept."""
    sizes = (ROOT / "docs/adr/0013-sizes-in-lines-of-code.md").read_text()
    for part, number in {
        "the core": house.CORE_CODE,
        "a backend": house.BACKEND_CODE,
        "the connections of a kind": house.CONNECTION_CODE,
    }.items():
        assert re.search(rf"^\| {part}\b[^|]*\| {number:,} \|$", sizes, re.MULTILINE), part
    sentence = f"{house.BACKEND_CODE:,} lines of code for a backend and {house.CONNECTION_CODE} for its connections"
    for page in ("docs/adr/0001-rooms-and-seams.md", "CONTRIBUTING.md"):
        assert sentence in (ROOT / page).read_text(), page
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    files = f"at most {house.FILE_LINES} lines, functions at most {house.FUNCTION_LINES}"
    assert f"{files}, constructors at most {house.CONSTRUCTOR_PARAMETERS} parameters" in guide


@pytest.mark.parametrize(
    ("subject", "fits"),
    [
        ("nats: keep a retry until its copy is stored", True),
        ("docs: " + "x" * 66, True),
        ("docs: " + "x" * 67, False),
        ("Nats: keep a retry until its copy is stored", False),
        ("keep a retry until its copy is stored", False),
        ("nats: Keep a retry", False),
        ("nats: keep a retry.", False),
        ("Merge branch 'x'", True),
        ("fixup! nats: keep a retry", True),
        ("", False),
    ],
)
def test_commit_subjects(subject: str, fits: bool, tmp_path: Path) -> None:
    """A subject is ``area: imperative`` of at most 72 characters; the script says so in front of each commit."""
    message = tmp_path / "message"
    message.write_text(f"{subject}\n\nThe reason.\n# a comment of git\n")
    script = ROOT / "scripts" / "commit-subject"
    ran = subprocess.run([script, message], capture_output=True, text=True, timeout=20, check=False)
    assert (ran.returncode == 0) is fits, ran.stderr
    assert fits or "area: imperative" in ran.stderr


def test_a_refused_word_is_found(tmp_path: Path) -> None:
    """The word check names file, line and word, and lets a word that is alone in quotation marks stand for itself."""
    words = [sys.executable, ROOT / "scripts" / "words", "--root", tmp_path]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text("Some\nbody and the worker.\nNobody knows.\n")
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "docs/page.md:3: Nobody" in ran.stdout
    (tmp_path / "docs" / "page.md").unlink()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text('"""Nobody knows."""\nUSER = "nobody"\nTEXT = "ask somebody"\n')
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.splitlines()[:-1] == [
        "src/app.py:1: Nobody (2 in this file, 0 recorded)",
        "src/app.py:3: somebody (2 in this file, 0 recorded)",
    ]
    (tmp_path / "src" / "app.py").unlink()
    (tmp_path / "docs" / "page.md").write_text("Some\nbody and the worker.\n")
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout
