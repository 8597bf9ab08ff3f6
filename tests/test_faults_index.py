"""Each fault that a worker or a connection can meet is tested with real processes on each backend, or says why not.

A test names the faults that it stands for in its docstring: ``F07``, ``F02–F05``. Which backends it runs on its folder
says; in ``tests/backends`` itself it runs on every broker.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent

#: The faults of worker processes, of brokers that hang, of networks, of clocks, and of what a job depends on.
FAULTS = {
    f"F{number:02}"
    for numbers in (range(1, 18), (21, 22), range(33, 42), (57, 58), range(61, 71))
    for number in numbers
}
BROKERS = ("redis", "nats", "rabbitmq")
STORES = ("postgresql", "sqlite")

#: Where a test runs: the longest beginning of its path decides. SQLite is the store beside RabbitMQ in plays of faults.
PLACES: dict[str, tuple[str, ...]] = {
    "backends/test_faults_tasks": (*BROKERS, "sqlite"),
    "backends/test_faults_stores": (*BROKERS, *STORES),
    "backends/test_faults_stops": (*BROKERS, "sqlite"),
    "backends/test_thousand_cuts": BROKERS,
    "backends/redis/": ("redis",),
    "backends/nats/": ("nats",),
    "backends/rabbitmq/": ("rabbitmq",),
    "backends/rabbitmq/test_faults_workers": ("rabbitmq", "sqlite"),
    "connections/redis/": ("redis",),
    "stores/sql/test_exactly_once": STORES,
    "stores/sql/test_faults_network": ("postgresql",),
    "stores/sql/test_faults_postgres": ("postgresql",),
    "stores/sql/test_sqlite": ("sqlite",),
}

IN_WORKER = "it happens in the worker, before or beside its calls of a store, and is tested with each broker"
OF_BROKER = "deliveries, leases, schedules, deadlines, retries and dead letters are the broker's, and no store has any"
NO_NETWORK = "a file has no network, and no server that could be away"
OWN_CLOCK = "records carry times of the worker that writes them; leases and schedules are measured by the broker"

#: Faults that cannot meet a store, and why. There are none that could not meet a broker.
REASONS: dict[str, dict[str, str]] = {
    "redis": {},
    "nats": {},
    "rabbitmq": {},
    "postgresql": {
        **dict.fromkeys(("F06", "F07", "F08", "F34", "F36", "F61", "F62", "F64", "F70"), OF_BROKER),
        **dict.fromkeys(("F09", *(f"F{number}" for number in range(10, 18)), "F67", "F68", "F69"), IN_WORKER),
        **dict.fromkeys(("F04", "F05"), OF_BROKER),
        **dict.fromkeys(("F57", "F58"), OWN_CLOCK),
    },
    "sqlite": {
        **dict.fromkeys(("F06", "F62"), OF_BROKER),
        **dict.fromkeys((f"F{number}" for number in (33, 34, *range(36, 40), 41)), NO_NETWORK),
        "F57": OWN_CLOCK,
        "F64": OF_BROKER,
    },
}


def cited(docstring: str | None) -> Iterator[str]:
    """Find the faults that a docstring names, alone or from one to another."""
    for first, last in re.findall(r"\bF(\d\d)(?:[–-]F(\d\d))?\b", docstring or ""):
        yield from (f"F{number:02}" for number in range(int(first), int(last or first) + 1))


def place_of(path: Path) -> tuple[str, ...]:
    """Tell on which backends the tests of a file run; on none that is real, if it is not listed."""
    name = path.relative_to(TESTS).as_posix()
    return PLACES[max(found, key=len)] if (found := [each for each in PLACES if name.startswith(each)]) else ()


def index() -> dict[str, dict[str, list[str]]]:
    """Map each backend to the faults that its tests name, and these to the tests."""
    tests: dict[str, dict[str, list[str]]] = {backend: defaultdict(list) for backend in REASONS}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())) if place_of(path) else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for fault in cited(ast.get_docstring(node)):
                    for backend in place_of(path):
                        tests[backend][fault].append(f"{path.relative_to(TESTS)}::{node.name}")
    return tests


def test_each_fault_has_its_test():
    """On each backend each fault is named by a test there, or has the reason why it cannot happen."""
    missing = {backend: sorted(FAULTS - set(tests) - set(REASONS[backend])) for backend, tests in index().items()}
    assert missing == {backend: [] for backend in REASONS}


def test_no_reason_is_out_of_date():
    """What has a test needs no reason why it has none."""
    found = index()
    assert {backend: sorted(set(reasons) & set(found[backend])) for backend, reasons in REASONS.items()} == {
        backend: [] for backend in REASONS
    }
    assert all(set(reasons) <= FAULTS for reasons in REASONS.values())
