"""What stands in one place only: the settler, and the names of records."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import taskcore
from taskcore.records import names

SRC = Path(taskcore.__file__).parent
ADAPTERS = ("backends/", "stores/", "connections/")  #: they carry verdicts out
KIT = ("conformance/", "faults/", "testing/", "bench/")  #: it calls seams directly, to test them

SETTLES = {"worker/settle.py"}
PASSES_ON = {"observe.py"}  #: the wrapper of the seam


def modules(*without: str) -> Iterator[tuple[str, ast.Module]]:
    """Read each module of the library by its path below ``taskcore``."""
    for path in sorted(SRC.rglob("*.py")):
        name = path.relative_to(SRC).as_posix()
        if not name.startswith(without):
            yield name, ast.parse(path.read_text())


def test_only_the_settler_settles():
    """Outside of adapters and the kit, one module gives a broker its verdicts, those of at-most-once included."""
    calls = {
        name
        for name, tree in modules(*ADAPTERS, *KIT)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "settle"
    }
    assert calls - PASSES_ON == SETTLES


def test_record_names_stand_in_one_table():
    """No other module spells the beginning of a record's name."""
    kinds = ("job/", "cancel/", "start/", "key/")
    spelled = {
        (name, node.value)
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(kinds)
    }
    assert {name for name, _ in spelled} == {"records/names.py"}
    assert {text for _, text in spelled} == set(kinds)


def test_names_of_records():
    """The names are as other programs and older versions wrote them."""
    assert names.outcome_name("a") == names.OUTCOME + "a" == "job/a"
    assert names.cancel_name("a") == "cancel/a"
    assert names.start_name("a", 2) == "start/a/2"
    assert names.key_name("shop.pay", "7") == names.key_name("shop.pay", "7") != names.key_name("shop.pay", "8")
    assert names.key_name("shop.pay", "ä 任务/…").startswith("key/shop.pay/")
    assert [names.is_start_name(name) for name in ("start/a/0", "job/a")] == [True, False]
