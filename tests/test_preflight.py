"""strict: an app does not open on a server whose settings break a guarantee; without it, workers warn."""

from __future__ import annotations

import logging

import anyio
import pytest

from taskcore import App, BrokerUnavailable
from taskcore.conformance.checking import History, RecordingBackend
from taskcore.errors import SetupError, UnsafeBroker
from tests.support.diagnosed import EVICTS, SLOW, DiagnosedBackend, DiagnosedStore, DumbBackend, DumbStore

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


def app_on(backend, store="none", **settings):
    """Make an app with a task, on these."""
    app = App(backend, store=store, **settings)

    @app.task(name="work")
    async def work() -> None:
        pass

    return app


def warnings(caplog, level=logging.WARNING):
    """List what was logged at this level."""
    return [record.getMessage() for record in caplog.records if record.levelno == level]


async def test_strict_refuses():
    """An unsafe fact, its clauses and its fix are in the error; nothing stays open."""
    backend = DiagnosedBackend(EVICTS, SLOW)
    app = app_on(backend, strict=True)
    with pytest.raises(UnsafeBroker) as caught:
        await app.__aenter__()
    assert str(caught.value) == (
        "[TC502] strict: the app does not open, because C1 would not hold\n"
        "  broker, eviction (C1): maxmemory-policy is allkeys-lru, so jobs may vanish\n"
        "    fix: CONFIG SET maxmemory-policy noeviction\n"
        "  fix: change these settings of the server, or strict=False; `taskcore doctor` shows everything"
    )
    assert isinstance(caught.value, SetupError)
    assert caught.value.unsafe == (EVICTS,)
    assert not backend.open


async def test_strict_asks_the_store_too():
    """A store is refused like a broker; a fact of both, because they are one server, is said once."""
    with pytest.raises(UnsafeBroker) as caught:
        await app_on(DiagnosedBackend(SLOW), DiagnosedStore(EVICTS), strict=True).__aenter__()
    assert caught.value.facts[0].startswith("store, eviction (C1): ")
    with pytest.raises(UnsafeBroker) as caught:
        await app_on(DiagnosedBackend(EVICTS), DiagnosedStore(EVICTS), strict=True).__aenter__()
    assert caught.value.unsafe == (EVICTS,)


async def test_strict_passes_what_is_safe(caplog):
    """What may hurt some day is no reason to refuse, nor is a server without diagnostics; there is no warning then."""
    for backend, store in ((DiagnosedBackend(SLOW), "none"), (DumbBackend(), DumbStore())):
        async with app_on(backend, store, strict=True).running():
            pass
    assert warnings(caplog) == []


async def test_strict_refuses_memory():
    """memory:// ends with the process, and it is the default of an app that names no broker: strict is for that."""
    with pytest.raises(UnsafeBroker) as caught:
        await App("memory://", strict=True).__aenter__()
    assert [fact.clauses for fact in caught.value.unsafe] == [("C1",), ("C1", "C10")]
    async with App("memory://"):
        pass


@pytest.mark.parametrize("backend", [DiagnosedBackend(error=BrokerUnavailable("gone")), DiagnosedBackend(takes=60.0)])
async def test_strict_needs_an_answer(backend):
    """If the settings cannot be read, a strict app does not open; it does not wait for ever either."""
    began = anyio.current_time()
    with pytest.raises(BrokerUnavailable):
        await app_on(backend, strict=True).__aenter__()
    assert anyio.current_time() - began <= 10.0
    assert not backend.open


async def test_a_worker_warns(caplog):
    """Without strict, one line for each unsafe fact when a worker starts, with clause and fix."""
    async with app_on(DiagnosedBackend(EVICTS, SLOW), DiagnosedStore()).running():
        pass
    [line] = warnings(caplog)
    found, _, fix = line.partition("; ")
    assert found == "broker, eviction (not kept: C1): maxmemory-policy is allkeys-lru, so jobs may vanish"
    assert fix == "CONFIG SET maxmemory-policy noeviction"


async def test_a_client_checks_no_server(caplog):
    """Clients come and go: they neither ask nor warn."""
    backend = DiagnosedBackend(EVICTS)
    async with app_on(backend):
        pass
    assert (backend.asked, warnings(caplog)) == (0, [])


async def test_deliberate_limits_are_logged_as_information(caplog):
    """memory:// logs its limits as information, which keeps tests and examples quiet."""
    caplog.set_level(logging.INFO)
    async with app_on("memory://", None).running():
        pass
    assert warnings(caplog) == []
    missed = [line for line in warnings(caplog, logging.INFO) if "not kept" in line]
    assert [line.split(":")[0] for line in missed] == [
        "broker, durability (not kept",
        "store, durability (not kept",
    ]


@pytest.mark.parametrize("backend", [DiagnosedBackend(error=BrokerUnavailable("gone")), DiagnosedBackend(takes=60.0)])
async def test_a_server_that_does_not_say_stops_no_worker(caplog, backend):
    """The worker starts, and says that it cannot check its server."""
    async with app_on(backend).running():
        pass
    [line] = warnings(caplog)
    assert line.startswith("cannot check the settings of broker and store: ")


async def test_run_worker_warns_too(caplog):
    """The worker of the command line does as the one in the program."""
    async with anyio.create_task_group() as group:
        app = app_on(DiagnosedBackend(EVICTS))
        await group.start(app.run_worker)
        group.cancel_scope.cancel()
    assert len(warnings(caplog)) == 1


async def test_wrappers_of_the_test_kit_say_nothing():
    """A backend behind one that records cannot be asked, so nothing is refused."""
    async with app_on(RecordingBackend(DiagnosedBackend(EVICTS), History(clock=anyio.current_time)), strict=True):
        pass


async def test_from_the_environment(monkeypatch):
    """TASKCORE_STRICT makes every app strict that does not say otherwise."""
    monkeypatch.setenv("TASKCORE_STRICT", "yes")
    with pytest.raises(UnsafeBroker):
        await App("memory://").__aenter__()
    async with App("memory://", strict=False):
        pass
