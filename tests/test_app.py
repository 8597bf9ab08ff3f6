"""Putting a program together: apps, routers, tasks; opening and closing; and every mistake one can make in it."""

from __future__ import annotations

import anyio
import pytest

from taskcore import (
    AdapterMissing,
    App,
    DuplicateTask,
    InvalidContract,
    InvalidSetting,
    InvalidURL,
    NotRunning,
    Retry,
    Router,
    StoreRequired,
)
from taskcore.backends.memory import MemoryBackend
from tests.support.faulty import FaultyBackend
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


# ── routers ──────────────────────────────────────────────────────────────────────────────────────


def make_router():
    """Make a library's router with one task."""
    router = Router()

    @router.task(name="library.greet")
    async def greet(name: str) -> str:
        return f"hello {name}"

    return router, greet


async def test_a_router_is_included():
    """Tasks of a library are sent through the app that took them in."""
    router, greet = make_router()
    app = App("memory://", clock=clock)
    app.include(router)

    async with app.running():
        assert await (await greet.enqueue("Ada")).result(timeout=5) == "hello Ada"
    assert app.tasks == router.tasks == {"library.greet": greet}
    assert len(app) == 1


async def test_a_task_without_an_app():
    """A task that no app has cannot be sent; its function can be called, its calls can be packed."""
    _, greet = make_router()
    with pytest.raises(NotRunning, match=r"no app has the task library\.greet") as caught:
        await greet.enqueue("Ada")

    assert "include" in caught.value.fix
    assert await greet("Ada") == "hello Ada"
    assert greet.call("Ada").payload == b'{"name":"Ada"}'


async def test_a_task_without_an_app_has_no_options():
    """Settings complete the options; without an app there are none, and reading them says so."""
    _, greet = make_router()
    with pytest.raises(NotRunning, match=r"no app has the task library\.greet, so no settings complete its options"):
        _ = greet.options.timeout
    with pytest.raises(AttributeError, match="no attribute 'optoins'"):
        _ = greet.optoins


async def test_the_last_app_sends():
    """A router that two apps took in is sent through the later one."""
    router, greet = make_router()
    first, second = App("memory://", clock=clock), App("memory://", clock=clock)
    first.include(router)
    second.include(router)

    async with first, second:
        await greet.enqueue("Ada")
        assert (await first.stats()).ready == 0
        assert (await second.stats()).ready == 1


def test_two_tasks_of_one_name():
    """A name is one task's: the error says where both are."""
    app, (router, _) = App("memory://"), make_router()

    @app.task(name="library.greet")
    async def other() -> None: ...

    with pytest.raises(DuplicateTask, match=r"library\.greet") as caught:
        app.include(router)
    assert [fact.rpartition(":")[0] for fact in caught.value.facts] == [f"one at {place(__file__)}"] * 2


def place(file: str) -> str:
    """Shorten a path as errors do."""
    return "/".join(file.split("/")[-2:])


def test_including_twice():
    """The same router twice is once."""
    app, (router, _) = App("memory://"), make_router()
    app.include(router)
    app.include(router)

    assert len(app) == 1


def test_the_apps_settings_complete_a_task():
    """What the decorator left open, the app's settings say; what it said stays."""
    router, greet = make_router()

    @router.task(name="said", retry=2, keep_result=5.0)
    async def said() -> None: ...

    app = App("memory://", retry=Retry(attempts=9), keep_result=99.0)
    app.include(router)

    assert (greet.options.rules.retry.attempts, greet.options.keep_result) == (9, 99.0)
    assert (said.options.rules.retry.attempts, said.options.keep_result) == (2, 5.0)


@pytest.mark.parametrize(("retry", "attempts"), [(None, 1), (1, 1), (7, 7), (Retry(attempts=3), 3)])
def test_short_forms_of_retry(retry, attempts):
    """A number of attempts, or None for a single one, is a policy too."""
    app = App("memory://")

    @app.task(retry=retry)
    async def work() -> None: ...

    assert work.options.rules.retry.attempts == attempts


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": float("inf")}, "timeout"),
        ({"crashes": 0}, "crashes"),
        ({"keep_result": -1}, "keep_result"),
        ({"key_window": 0}, "key_window"),
        ({"key": "nmae"}, "nmae"),
        ({"key": ("name", "age")}, "age"),
        ({"delivery": "twice"}, "delivery"),
        ({"delivery": "at_most_once", "key": "name"}, "key"),
        ({"runs_in": "cloud"}, "runs_in"),
        ({"runs_in": "thread"}, "runs_in"),
        ({"timeout": -1, "crashes": -1}, "crashes"),
    ],
)
def test_options_that_cannot_be(options, named):
    """An option with an impossible value is refused when the function is decorated, by name."""
    app = App("memory://")
    with pytest.raises(InvalidContract, match=named):

        @app.task(**options)
        async def greet(name: str) -> None: ...


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"delay": -1}, "delay"),
        ({"delay": "soon"}, "delay"),
        ({"delay": float("nan")}, "delay"),
        ({"expires": -1}, "expires"),
        ({"key": ""}, "key"),
        ({"key": "x" * 513}, "key"),
        ({"id": 7}, "id"),
        ({"queue": "Mail Queue"}, "Mail Queue"),
        ({"headers": {"a": 1}}, "strings"),
        ({"headers": {"a": "x" * 8192}}, "8193 bytes"),
    ],
)
def test_options_of_a_call_that_cannot_be(options, named):
    """Options of using() that cannot be are refused."""
    _, greet = make_router()
    with pytest.raises(ValueError, match=named):
        greet.using(**options)


def test_options_that_do_not_exist():
    """A misspelt option is refused, with the name that was probably meant."""
    router, greet = make_router()
    with pytest.raises(InvalidSetting, match="@task has no option 'tiemout'") as caught:
        router.task(tiemout=3.0)(greet.contract.function)
    assert caught.value.fix == "did you mean 'timeout'?"
    with pytest.raises(InvalidSetting, match=r"using\(\) has no option 'dealy'") as caught:
        greet.using(dealy=3.0)
    assert caught.value.fix == "did you mean 'delay'?"


# ── opening and closing ──────────────────────────────────────────────────────────────────────────


async def test_an_app_may_be_entered_again():
    """Entering counts; the last one to leave closes."""
    app = App("memory://", clock=clock)
    router, greet = make_router()
    app.include(router)

    async with app:
        async with app:
            await greet.enqueue("Ada")
        async with app.running():
            await app.drain(timeout=5)
        assert (await app.stats()).ready == 0
        assert "open" in repr(app)
    with pytest.raises(NotRunning, match="not open"):
        await app.stats()
    assert "closed" in repr(app)


async def test_entering_twice_at_the_same_time():
    """Two that enter at once share one connection."""
    opened = []

    class Slow(MemoryBackend):
        async def __aenter__(self):
            opened.append(1)
            await anyio.sleep(1)
            return self

    app = App(Slow(), clock=clock)

    async def use() -> None:
        async with app:
            await anyio.sleep(5)

    async with anyio.create_task_group() as group:
        group.start_soon(use)
        await anyio.sleep(0.5)
        group.start_soon(use)
    assert opened == [1]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt("mine"), ExceptionGroup("mine", [OSError()])])
async def test_errors_inside_of_running(error):
    """What the program raises inside `async with app.running()` comes out as it is, never wrapped."""
    app = App("memory://", clock=clock)
    app.include(make_router()[0])
    with pytest.raises(type(error)) as caught:
        async with app.running():
            raise error

    assert caught.value is error


async def test_a_worker_without_tasks():
    """A worker that could do nothing says so."""
    with pytest.raises(InvalidSetting, match="nothing to do"):
        async with App("memory://").running():
            pass


async def test_a_worker_that_fails_ends_the_program():
    """An error that is no outage, in an adapter, ends running() with that error."""

    class Broken(FaultyBackend):
        async def fail(self, _):
            raise ZeroDivisionError("a mistake in the adapter")

    backend = Broken()
    backend.faults.before["settle"] = backend.fail
    app = App(backend, clock=clock)
    router, greet = make_router()
    app.include(router)

    with pytest.raises(ZeroDivisionError, match="mistake"):  # noqa: PT012
        async with app.running():
            await greet.enqueue("Ada")
            await anyio.sleep(10)


async def test_a_task_that_wants_a_store_is_refused():
    """keep_result said aloud on an app without a store is refused when the app starts."""
    app = App(MemoryBackend(), clock=clock)

    @app.task(keep_result=60.0)
    async def good() -> int:
        return 7

    with pytest.raises(StoreRequired, match="good keeps its results"):
        async with app:
            pass


# ── URLs and settings ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("scheme", "extra"), [("amqp", "rabbitmq"), ("redis", "redis"), ("nats", "nats"), ("valkey", "redis")]
)
def test_adapters_that_are_not_installed(scheme, extra, monkeypatch):
    """The error has the command that installs what is missing."""
    monkeypatch.setattr("taskcore.adapters._registered", lambda group: NOTHING)
    with pytest.raises(AdapterMissing) as caught:
        App(f"{scheme}://localhost")

    assert f'pip install "taskcore-framework[{extra}]"' in caught.value.fix


class Nothing(list):
    """No entry points at all."""

    names = frozenset()


NOTHING = Nothing()


@pytest.mark.parametrize(
    ("url", "meant"), [("memroy://", "memory://"), ("reddis://localhost", "redis://"), ("ampq://localhost", "amqp://")]
)
def test_typos_in_a_scheme(url, meant):
    """The error guesses what was meant."""
    with pytest.raises(InvalidURL, match=f"did you mean {meant}"):
        App(url)


@pytest.mark.parametrize("url", ["localhost:6379", "memory", "//memory"])
def test_text_without_a_scheme_is_no_url(url):
    """Without a scheme it is no URL."""
    with pytest.raises(InvalidURL, match="is not a URL"):
        App(url)


def test_passwords_are_not_shown():
    """An error never shows a password."""
    with pytest.raises(InvalidURL) as caught:
        App("reddis://ada:secret@localhost")

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("setting", "meant"), [("concurency", "concurrency"), ("leases", "lease")])
def test_unknown_settings(setting, meant):
    """A setting with a typo is refused, with a guess."""
    with pytest.raises(InvalidSetting, match=meant):
        App("memory://", **{setting: 5})


@pytest.mark.parametrize("setting", ["concurrency", "lease", "threads", "payload_limit"])
def test_impossible_settings(setting):
    """A setting that cannot be is refused by its name."""
    with pytest.raises(InvalidSetting, match=setting):
        App("memory://", **{setting: -1})


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("memory://?limt=5", "limt"),
        ("memory://?limit=5&colour=red", "colour"),
        ("memory://localhost", "host"),
        ("memory:///path", "path"),
        ("memory://?limit=0", "limit"),
        ("memory://?limit=-1", "limit"),
        ("memory://?limit=many", "limit"),
        ("memory://?limit=", "limit"),
        ("memory://?limit=²", "limit"),
        ("memory://#x", "host"),
    ],
)
def test_urls_of_the_memory_with_a_mistake(url, named):
    """A URL is refused with the name of what is wrong, before anything is opened."""
    with pytest.raises(InvalidURL, match=named):
        MemoryBackend(url)
    with pytest.raises(InvalidURL, match=named):
        App(url)
