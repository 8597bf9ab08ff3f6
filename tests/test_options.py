"""Whatever an option is given, it works or is an error of ours with a code: no bare TypeError leaves the library."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore import App, Reject, Retry, RetryLater, Router, Snooze, TaskcoreError, adapters
from taskcore.config import AppSettings
from taskcore.deadletter import ReplayWith
from taskcore.errors import InvalidArguments, InvalidContract, InvalidName, InvalidSetting, InvalidURL
from taskcore.options import UsingOptions
from taskcore.router import TaskOptions
from taskcore.schedules.define import ScheduleOptions


class Hostile:
    """A value whose own code fails."""

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 10**400, -(10**400), 2**63, math.inf, -math.inf, math.nan, 1e308, 5e-324]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", " ", "\ud800", "a\nb", "5m", "1w", "tomorrow", "x" * 600, "BAD NAME", "default", "☃"]),
    st.binary(max_size=4),
    st.dates(),
    st.datetimes(),
    st.timedeltas(),
    st.lists(st.integers() | st.text(max_size=3), max_size=3),
    st.tuples(st.integers(), st.text(max_size=3)),
    st.dictionaries(st.text(max_size=3) | st.integers(), st.text(max_size=3) | st.integers(), max_size=2),
    st.frozensets(st.integers(), max_size=2),
    st.sampled_from([object(), int, len, print, ValueError, ValueError("x"), lambda: None, lambda a, b: None, ...]),
    st.builds(Hostile),
    st.complex_numbers(),
)
some = settings(max_examples=150, deadline=None)
few = settings(max_examples=60, deadline=None)  # each of these opens an app and asks many verbs


def check(error: TaskcoreError) -> None:
    """Fail if an error has no code, or a text that cannot be printed."""
    assert error.code != "TC000"
    assert str(error).startswith(f"[{error.code}]")
    assert str(error).encode()


def works_or_says_why(call: Callable[[], Any]) -> None:
    """Call; only errors of ours may come."""
    try:
        call()
    except TaskcoreError as error:
        check(error)


@some
@given(name=st.sampled_from(sorted(AppSettings.__annotations__)) | st.sampled_from(["url", "store"]), value=values)
def test_settings(name: str, value: Any) -> None:
    """Every setting of an app."""
    works_or_says_why(lambda: App(**{"url": "memory://", name: value}))


@some
@given(name=st.sampled_from(["url", "store", "clock", "codec", "middleware"]), value=values)
def test_objects(name: str, value: Any) -> None:
    """The arguments of an app that are objects, not settings."""
    works_or_says_why(lambda: App(**{"url": "memory://", name: value}))


@some
@given(name=st.sampled_from(sorted(TaskOptions.__annotations__)), value=values)
def test_options_of_a_task(name: str, value: Any) -> None:
    """Every option of the decorator, and the calls of what it made."""

    async def work(a: int, b: str = "x") -> int:
        return a

    def declare_and_call() -> None:
        task = App("memory://").task(name="work")(work) if name == "name" else _declare(work, {name: value})
        call = task.call(1)
        assert call.payload

    works_or_says_why(declare_and_call)


def _declare(function: Any, options: dict[str, Any]) -> Any:
    return App("memory://").task(**{"name": "work", **options})(function)


@some
@given(name=st.sampled_from(sorted(UsingOptions.__annotations__)), value=values)
def test_options_of_a_call(name: str, value: Any) -> None:
    """Every option of using(): those that are taken can be sent."""
    app = App("memory://")

    @app.task(name="work")
    async def work(n: int) -> None: ...

    async def send() -> None:
        options: Any = {name: value}
        call = work.using(**options).call(1)
        async with app:
            await app.enqueue_many([call])

    works_or_says_why(lambda: anyio.run(send))


@some
@given(name=st.sampled_from(Retry.__struct_fields__), value=values)
def test_policies(name: str, value: Any) -> None:
    """Every field of a policy; one that is taken can be asked."""

    def ask() -> None:
        policy = Retry(**{name: value})
        assert policy.wait(1, ValueError(), 0.5) is None or policy.bound(3) >= 0

    works_or_says_why(ask)


@few
@given(value=values)
def test_verbs(value: Any) -> None:
    """The verbs of an app and of a job."""
    app = App("memory://")

    @app.task(name="work")
    async def work(n: int) -> None: ...

    async def each() -> None:
        job = work.job("1")
        async with app:
            for verb in (
                lambda: app.enqueue_many(value),
                lambda: app.enqueue_many([value]),
                lambda: app.send(value),
                lambda: app.stats(value),
                lambda: app.purge(value),
                lambda: app.drain(value),
                lambda: app.drain("default", timeout=value),
                lambda: app.dead_letters.count(value),
                lambda: app.dead_letters.get(value),
                lambda: app.dead_letters.drop(value),
                lambda: app.dead_letters.replay(value),
                lambda: anext(app.dead_letters.read(value), None),
                lambda: work.job(value).status(),
                lambda: work.job("1", queue=value).status(),
                lambda: app.job(value).status(),
                lambda: app.job("1", queue=value).status(),
                lambda: anext(app.dead_letters.read(task=value), None),
                lambda: app.dead_letters.causes(value),
                lambda: app.dead_letters.settle(value, by=lambda _: "keep"),
                lambda: app.dead_letters.settle(by=None if callable(value) else value),
                lambda: _at_once(_enter(app.events(kinds=value))),
                lambda: _at_once(_enter(app.events(queues=value))),
                lambda: _at_once(job.outcome(value) if value is not None else job.status()),
            ):
                try:
                    await verb()
                except TaskcoreError as error:
                    check(error)

    works_or_says_why(lambda: anyio.run(each))


async def _enter(context: Any) -> None:
    async with context:
        pass


async def _at_once(asking: Any) -> None:
    with anyio.move_on_after(0.01):
        await asking


@few
@given(value=values)
def test_verdicts_about_dead_letters(value: Any) -> None:
    """What a function says of a dead letter, and what a replay changes: refused before a letter is touched."""
    app = App("memory://")

    @app.task(name="fail", retry=None)
    async def fail(n: int) -> None:
        raise ValueError("no")

    async def settle() -> None:
        async with app.running():
            await (await fail.enqueue(1)).outcome(timeout=5)
            for by in (
                lambda _: value,
                lambda _: ReplayWith(delay=value),
                lambda _: ReplayWith(args=value),
            ):
                try:
                    await app.dead_letters.settle(by=by)
                except TaskcoreError as error:
                    check(error)
                    assert await app.dead_letters.count() == 1
                else:
                    break

    anyio.run(settle)


@few
@given(value=values, option=st.sampled_from(sorted(ScheduleOptions.__annotations__)))
def test_schedules(value: Any, option: str) -> None:
    """The options of a schedule, and the arguments of its verbs."""
    app = App("memory://")
    task: Any = app.task(name="work")(_nothing)

    async def each() -> None:
        async with app:
            put = app.schedules.put
            known = await put("known", task.call(), every=60)
            when = {} if option in ("cron", "every", "at", "times") else {"every": 60}
            now = dt.datetime.now(dt.UTC)
            for verb in (
                lambda: put("new", task.call(), **{**when, option: value}),
                lambda: put(value, task.call(), every=60),
                lambda: put("known", task.call(), every=61, on_exists=value),
                lambda: app.schedules.get(value),
                lambda: app.schedules.pause("known", value),
                lambda: app.schedules.backfill("known", value, now, label="a"),
                lambda: app.schedules.backfill("known", now, now, label=value),
                lambda: app.schedules.backfill("known", now, now, label="a", limit=value),
                lambda: _soon(known.preview, value),
            ):
                try:
                    await verb()
                except TaskcoreError as error:
                    check(error)

    anyio.run(each)


async def _soon(function: Any, *args: Any) -> None:
    function(*args)


@some
@given(name=st.sampled_from(["queues", "concurrency", "grace", "queue_limits"]), value=values)
def test_workers(name: str, value: Any) -> None:
    """The arguments of a worker."""
    app = App("memory://")
    app.task(name="work")(_nothing)

    async def run() -> None:
        options: Any = {name: value}
        async with app.running(**options):
            pass

    works_or_says_why(lambda: anyio.run(run))


async def _nothing() -> None: ...


@some
@given(value=values)
def test_objects_that_are_not_what_is_expected(value: Any) -> None:
    """Routers, tasks, listeners, and the exceptions that steer a job."""
    app = App("memory://")
    for call in (
        lambda: app.include(value),
        lambda: app.add(value),
        lambda: app.on_event(value),
        lambda: app.task(value),
        lambda: Router().task(value),
        lambda: Snooze(value),
        lambda: RetryLater(value),
        lambda: Reject(value),
    ):
        works_or_says_why(call)


# ── texts ────────────────────────────────────────────────────────────────────────────────────────


def declared() -> Any:
    """Declare a task on an app."""
    return App("memory://").task(name="work")(_nothing)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: declared().using(at=dt.date(2027, 1, 1)), "is not a datetime"),
        (lambda: declared().using(at="tomorrow"), "is not a datetime"),
        (lambda: declared().using(dealy=3), "did you mean 'delay'?"),
        (lambda: declared().using(id="a\nb"), "without control characters"),
        (lambda: declared().using(correlation_id="\u202e"), "without control characters"),
        (lambda: declared().using(headers={"a": "\ud83d"}), "without halves of surrogate pairs"),
        (lambda: declared().using(key="\ud83d"), "surrogate"),
        (lambda: declared().using(delay="soon"), "delay='soon' is not a time"),
        (lambda: Retry(attempts=0), "None instead of a policy means a single attempt"),
        (lambda: declared().using(retry=0), "retry=1 is a single attempt"),
        (lambda: App("memory://").job(5), "id=5 cannot be used"),
        (lambda: App("memory://").job("x\nERROR forged"), "without control characters"),
        (lambda: App("memory://").job(None), "give the id that `enqueue` returned"),
        (lambda: ReplayWith(delay="soon"), "delay='soon' is not a time"),
        (lambda: ReplayWith(args=["Ada"]), "args=['Ada'] is not a mapping"),
        (lambda: App("memory://").task(retry=0)(_nothing), "None instead of a policy means a single attempt"),
        (lambda: App("memory://", retry=0), "retry.attempts: expected a whole number, at least 1"),
        (lambda: App("memory://", concurrency=10**30), "from 1 to 100000"),
        (lambda: App("memory://", queues=[1, 2]), "queues: expected names"),
        (lambda: App(5), "expected a URL or a backend"),
    ],
)
def test_the_text_says_what_to_do(call: Callable[[], Any], text: str) -> None:
    """The error about an impossible value says what is expected."""
    with pytest.raises(InvalidSetting) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (5, "expected a parameter's name"),
        ((), "would be one key for all calls"),
        (["order"], "expected a parameter's name"),
        (lambda order: order, "cannot be called so: too many positional"),
        (lambda order, cents, more: order, "missing a required argument: 'more'"),
    ],
)
def test_a_key_that_cannot_be_made_is_refused_where_the_task_is_declared(key: Any, text: str) -> None:
    """A key function of fewer or more parameters fails at once, not with each call."""

    async def pay(order: int, cents: int) -> None: ...

    with pytest.raises(InvalidContract, match=text):
        App("memory://").task(name="pay", key=key)(pay)


def test_a_key_function_that_raises_refuses_the_call() -> None:
    """The caller gets an error with a code, and the function's own as its cause; no public fact has a value in it."""
    app = App("memory://")

    @app.task(name="pay", key=lambda order: {}[order])
    async def pay(order: str) -> None: ...

    with pytest.raises(
        InvalidArguments, match="the key function of this call raised KeyError; nothing was sent"
    ) as caught:
        pay.call("secret")
    assert isinstance(caught.value.__cause__, KeyError)
    assert "secret" not in " ".join((caught.value.what, *caught.value.public_facts))


@pytest.mark.parametrize("rule", ["order", ("order", "cents"), lambda order, cents: order])
def test_a_key_that_is_too_long_refuses_the_call(rule: Any) -> None:
    """A rule that makes a longer key than a worker reads sends nothing, and says how long one may be."""

    async def pay(order: str, cents: int) -> None: ...

    task = App("memory://").task(name="pay", key=rule)(pay)
    assert len(task.call("x" * 500, 1).key or "") <= 512
    with pytest.raises(InvalidArguments, match=r"nothing was sent(.|\n)*1 to 512 characters"):
        task.call("x" * 513, 1)


@pytest.mark.parametrize("value", [90, 90.0, "90", "90s", "1m30s", "1.5m", dt.timedelta(seconds=90)])
def test_one_rule_for_times(value: Any) -> None:
    """Every time may be a number of seconds, a text or a timedelta."""
    app = App("memory://", lease=value, grace=value, keep_result=value)
    assert (app.settings.lease, app.settings.grace, app.settings.keep_result) == (90.0, 90.0, 90.0)
    options: Any = {"timeout": value, "key_window": value, "keep_result": value, "retry": Retry(base=value, cap=value)}
    task = app.task(name="work", **options)(_nothing)
    assert (task.options.timeout, task.options.key_window, task.options.keep_result) == (90.0, 90.0, 90.0)
    assert (task.options.rules.retry.base, task.options.rules.retry.cap) == (90.0, 90.0)
    call = task.using(delay=value, expires=value).call()
    assert (call.options.delay, call.options.expires) == (90.0, 90.0)
    assert (Snooze(value).after, RetryLater(value).after) == (90.0, 90.0)


@pytest.mark.parametrize(
    "url", ["postgresql://user:hunter2@db/shop", "postgres://user:hunter2@db/shop", "sqlite:///s.db"]
)
def test_a_database_is_a_broker_and_a_store(url: str) -> None:
    """One URL names both, and no text has its password."""
    app = App(url)
    assert (app.features.survives_worker, app.features.redeliveries) == (True, "native")
    assert app.components.store is not None
    assert "hunter2" not in repr(app)


def test_a_store_of_another_package_is_no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, and how to name both; it has no password."""
    groups: dict[str, dict[str, object]] = {adapters.BACKENDS: {}, adapters.STORES: {"etcd": object()}}
    monkeypatch.setattr(adapters, "_registered", groups.__getitem__)
    with pytest.raises(InvalidURL) as caught:
        App("etcd://user:hunter2@db/shop")
    assert 'store="etcd://' in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_broker_without_records_is_no_store() -> None:
    """The other way round."""
    with pytest.raises(InvalidURL, match="no store"):
        App("memory://", store="amqp://host")


@pytest.mark.parametrize("verb", ["delay", "apply_async", "send", "send_with_options", "kiq", "push"])
def test_the_verbs_of_other_libraries_name_ours(verb: str) -> None:
    """A migrating program learns the name, whatever form of a task it asks."""
    task = declared()
    for one in (task, task.using(delay=1), task.sync):
        with pytest.raises(AttributeError, match=r"enqueue\(…\)"):
            getattr(one, verb)
        assert not hasattr(one, verb)


@pytest.mark.parametrize(
    ("owner", "verb", "ours"),
    [
        ("task", "s", "_nothing.call(…)"),
        ("task", "map", "app.enqueue_many("),
        ("app", "enqueue", "task.enqueue(…)"),
        ("app", "send_task", "task.enqueue(…)"),
        ("app", "AsyncResult", "app.job(id)"),
        ("app", "start", "taskcore worker"),
        ("job", "get", "job.result(timeout=…)"),
        ("job", "ready", "job.status()"),
        ("job", "revoke", "job.cancel()"),
    ],
)
def test_the_verbs_of_apps_and_jobs_elsewhere_name_ours(owner: str, verb: str, ours: str) -> None:
    """So do those of an app, of a job and of their blocking forms; other names that are not there stay plain errors."""
    task = declared()
    app = App("memory://")
    owners: dict[str, list[Any]] = {
        "task": [task], "app": [app, app.sync], "job": [task.job("1"), task.sync.job("1")]
    }  # fmt: skip
    for one in owners[owner]:
        with pytest.raises(AttributeError) as caught:
            getattr(one, verb)
        assert ours in str(caught.value)
        with pytest.raises(AttributeError, match=r"has no attribute 'nonsense'$"):
            _ = one.nonsense


def test_an_attribute_error_inside_of_a_property_is_its_own() -> None:
    """The error names what is missing there, and not the property."""
    app = App("memory://")
    app.components = None  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'backend'"):
        _ = app.features


def test_a_lambda_needs_a_name() -> None:
    """Its own name cannot travel, and the text says how to give one."""
    with pytest.raises(InvalidName, match="name it"):
        App("memory://").task(lambda a: a)
    assert App("memory://").task(name="double")(lambda a: a).name == "double"


def test_handles_have_a_repr() -> None:
    """Blocking handles say what they stand for."""
    task = declared()
    assert "work" in repr(task.sync)
    assert "work" in repr(task.using(delay=1))
    assert "memory://" in repr(App("memory://").sync)
