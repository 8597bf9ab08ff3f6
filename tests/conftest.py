"""Shared by all tests: both event loops, and a virtual clock."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))  # for children


#: What ``--quick`` leaves out: real servers, processes, and random searches that take more than seconds.
NOT_QUICK = {
    "tests/backends/nats",
    "tests/backends/rabbitmq",
    "tests/backends/redis",
    "tests/backends/test_short_retries.py",
    "tests/backends/test_silent_brokers.py",
    "tests/backends/test_silent_connections.py",
    "tests/bench",
    "tests/benchmarks",
    "tests/cli",
    "tests/conformance/checking/test_checker_alone.py",
    "tests/conformance/crash_sweep",
    "tests/conformance/model",
    "tests/conformance/test_broker_without_counts.py",
    "tests/conformance/test_checks.py",
    "tests/conformance/test_mutants.py",
    "tests/connections",
    "tests/contract/codec",
    "tests/faults",
    "tests/processes",
    "tests/schedules/test_on_brokers.py",
    "tests/stores/nats",
    "tests/stores/redis",
    "tests/stores/sql",
    "tests/test_docs.py",
    "tests/test_example.py",
    "tests/test_examples.py",
    "tests/test_house.py",
    "tests/test_speed_guard.py",
    "tests/test_typing.py",
    "tests/workflows/test_on_brokers.py",
    "tests/worker/runners",
    "tests/worker/test_signals.py",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the tests that are for the inner loop."""
    parser.addoption("--quick", action="store_true", help="memory only: no servers, no processes, under a minute")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what is not quick; ``None`` leaves the decision to pytest."""
    quick = config.getoption("--quick") and collection_path.is_relative_to(ROOT)
    return True if quick and collection_path.relative_to(ROOT).as_posix() in NOT_QUICK else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out slow tests, if only quick ones are wanted; put those first that wait longest."""
    if config.getoption("--quick"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    # Tests that wait for minutes begin first, beside the others: at the end of a run they would wait alone.
    items.sort(key=lambda item: item.path.name != "test_recovery_at_defaults.py")


def pytest_configure(config: pytest.Config) -> None:
    """Register markers of our own."""
    config.addinivalue_line("markers", "virtual: on both loops, with time that passes only when no task can run")


@pytest.fixture(scope="session", autouse=True)
def no_servers_if_quick(request: pytest.FixtureRequest) -> Iterator[None]:
    """Find no server in a quick run: tests that ask for one first are skipped, others fail and belong to NOT_QUICK."""
    if not request.config.getoption("--quick"):
        yield
        return
    from taskcore.faults import ServerMissing, binaries  # noqa: PLC0415 - for quick runs only

    def none(*_: object) -> Iterator[Path]:
        raise ServerMissing("--quick runs no servers")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binaries, "_candidates", none)
        patch.delenv("TASKCORE_REQUIRE_SERVERS", raising=False)
        yield


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run every async test on asyncio and on trio; marked ``virtual``, under a clock that jumps.

    There days pass in which workers have nothing to do but to beat: they do so in the tests that ask for it.
    """
    if request.node.get_closest_marker("virtual") is None:
        return request.param
    monkeypatch.setenv("TASKCORE_HEARTBEAT", "0")
    from tests.support.virtual import options  # noqa: PLC0415 - imported by the tests that need it

    return request.param, options(request.param)


@pytest.fixture
def virtual_time() -> Any:
    """Return options for anyio.run under which time passes only when no task can run."""
    import trio.testing  # noqa: PLC0415 - trio's clock is bound to the moment it is made

    return {"backend": "trio", "backend_options": {"clock": trio.testing.MockClock(autojump_threshold=0)}}
