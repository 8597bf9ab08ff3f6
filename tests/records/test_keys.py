"""Sending with an idempotency key: the same key is the same job, whatever happens in between (C10)."""

from __future__ import annotations

import anyio
import pytest

from taskcore import (
    App,
    BrokerUnavailable,
    EnqueueUncertain,
    InvalidArguments,
    InvalidContract,
    KeyConflict,
    StoreRequired,
)
from taskcore.backends.memory import MemoryBackend
from tests.support.shop import HOUR, Shop
from tests.support.virtual import clock

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def shop():
    """Make two programs that share one key."""
    return Shop()


async def test_the_same_key_is_the_same_job(shop):
    """A second enqueue answers with the first job, before, while and after it runs."""
    async with shop.one:
        first = await shop.charge.enqueue("a")
        queued = await shop.charge.enqueue("a")
        async with shop.one.running():
            await shop.runs.wait()
            running = await shop.charge.enqueue("a")
            results = [await job.result(timeout=5) for job in (first, queued, running)]
            done = await shop.charge.enqueue("a")

            assert results == ["run 1 by one"] * 3
            assert await done.result(timeout=5) == "run 1 by one"
    assert {queued.id, running.id, done.id} == {first.id}
    assert len(shop.runs) == 1


async def test_other_keys_are_other_jobs(shop):
    """Keys of one task, and the same key of two tasks, do not meet."""

    @shop.one.task(key="order")
    async def refund(order: str) -> str:
        return "refunded"

    async with shop.one.running():
        jobs = [await shop.charge.enqueue("a"), await shop.charge.enqueue("b"), await refund.enqueue("a")]

        assert [await job.result(timeout=9) for job in jobs] == ["run 2 by one", "run 2 by one", "refunded"]
    assert len({job.id for job in jobs}) == 3


async def test_the_first_outcome_is_remembered_for_the_window(shop):
    """Duplicates get the first outcome also after keep_result is over, up to the end of the key's window."""
    async with shop.one.running():
        job = await shop.charge.enqueue("a")
        await job.result()
        await anyio.sleep(23 * HOUR)
        again = await shop.charge.enqueue("a")

        assert await again.result(timeout=1) == "run 1 by one"
        assert await job.result(timeout=1) == "run 1 by one"
    assert len(shop.runs) == 1


async def test_after_the_window_it_runs_again(shop):
    """The window begins anew when the job is done; after it the key is new."""
    async with shop.one.running():
        first = await shop.charge.enqueue("a")
        await first.result()
        await anyio.sleep(24 * HOUR + 1)
        second = await shop.charge.enqueue("a")

        assert await second.result(timeout=5) == "run 2 by one"
    assert second.id != first.id


async def test_a_delayed_job_keeps_its_key(shop):
    """The window of a scheduled job does not end before the job starts."""
    async with shop.one.running():
        first = await shop.charge.using(delay=48 * HOUR).enqueue("a")
        await anyio.sleep(47 * HOUR)
        second = await shop.charge.enqueue("a")
        await first.result()

    assert second.id == first.id
    assert len(shop.runs) == 1


async def test_other_arguments_are_a_conflict(shop):
    """A key says that it is the same call; with other arguments it is not, and nothing is sent."""
    async with shop.one:
        job = await shop.charge.enqueue("a", 1)
        with pytest.raises(KeyConflict, match='key "a" of charge was used with other arguments') as caught:
            await shop.charge.enqueue("a", 2)

        assert caught.value.job_id == job.id
        assert (await shop.one.stats()).ready == 1
        assert shop.one.counters["key.conflict"] == 1


async def test_many_at_once_are_one_job(shop):
    """Fifty concurrent calls with one key are one job and one run (F54)."""
    ids = set()

    async def enqueue(app) -> None:
        job = await app.tasks["charge"].enqueue("a")
        ids.add(job.id)

    async with shop.one.running(), shop.two.running():
        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(enqueue, (shop.one, shop.two)[number % 2])
        batch = await shop.one.enqueue_many([shop.charge.call("a")] * 50)
        await batch[0].result()

    assert ids == {job.id for job in batch}
    assert len(ids) == 1
    assert len(shop.runs) == 1


async def test_conflicts_in_a_batch(shop):
    """In a batch the others are sent, and the error says which was not."""
    async with shop.one.running():
        with pytest.raises(KeyConflict) as caught:
            await shop.one.enqueue_many([shop.charge.call("a", 1), shop.charge.call("a", 2), shop.charge.call("b", 1)])
        first, conflict, other = caught.value.jobs

        assert conflict is None
        assert await first.result(timeout=5)
        assert await other.result(timeout=5)


@pytest.mark.parametrize("verb", ["publish", "put_many"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_client_that_dies_while_sending(shop, verb, when):
    """Wherever a client dies between claim, publish and confirmation, the next call repairs it: same job, one run."""

    class Death(BaseException):
        pass

    async def die(items) -> None:
        raise Death

    faults = shop.backend.faults if verb == "publish" else shop.store.faults
    async with shop.one:
        getattr(faults, when)[verb] = die
        with pytest.raises(Death):
            await shop.charge.enqueue("a")
        getattr(faults, when).clear()
        [claim] = shop.claims() or [None]
        async with shop.one.running():
            job = await shop.charge.enqueue("a")

            assert await job.result(timeout=5) == "run 1 by one"
            await shop.one.drain(timeout=5)
    if claim is not None:
        assert job.id == claim.job
    assert len(shop.runs) == 1


async def test_a_claim_that_could_not_be_confirmed(shop):
    """A store that goes away after the publish does not fail the enqueue: the job is sent."""

    async def go(items) -> None:
        shop.store.faults.fail("put_many")

    async with shop.one:
        shop.backend.faults.after["publish"] = go
        job = await shop.charge.enqueue("a")
        shop.backend.faults.after.clear()
        shop.store.faults.heal()
        again = await shop.charge.enqueue("a")

        assert again.id == job.id
        assert (await shop.one.stats()).ready == 1
        assert shop.one.counters["key.unconfirmed"] == 1


async def test_an_uncertain_enqueue_may_be_repeated(shop):
    """After a time-out the same call gives the same job, whether the first had arrived or not."""

    async def hang(items) -> None:
        await anyio.sleep_forever()

    for when in ("before", "after"):
        shop = Shop()
        async with shop.one:
            getattr(shop.backend.faults, when)["publish"] = hang
            with pytest.raises(EnqueueUncertain) as caught:
                await shop.charge.enqueue("a")
            getattr(shop.backend.faults, when).clear()
            job = await shop.charge.enqueue("a")

            assert caught.value.job_ids == (job.id,)
            assert (await shop.one.stats()).ready == 1


async def test_a_refused_job_gives_its_key_back():
    """A job that the broker refused was never sent, so its key is free."""
    app = App("memory://?limit=1", clock=clock)

    @app.task(key="order")
    async def charge(order: str, amount: int = 1) -> None: ...

    async with app:
        await charge.enqueue("a")
        with pytest.raises(RuntimeError, match="full"):
            await charge.enqueue("b")
        await app.purge("default")

        assert (await charge.enqueue("b", 2)).id
        assert (await app.stats()).ready == 1


async def test_a_store_that_is_gone_refuses(shop):
    """Without its store a key cannot be claimed, and nothing is sent (F65)."""
    async with shop.one:
        shop.store.faults.fail("put_many")
        with pytest.raises(BrokerUnavailable):
            await shop.charge.enqueue("a")

        assert (await shop.one.stats()).ready == 0


@pytest.mark.parametrize(
    ("rule", "same", "other"),
    [
        ("order", [("a", 1)], [("b", 1)]),
        (("order", "amount"), [("a", 1)], [("a", 2), ("b", 1)]),
        (lambda order, amount: order.lower(), [("a", 1)], [("b", 1)]),
        (("order",), [("a", 1)], [("b", 1)]),
    ],
)
async def test_a_key_is_a_parameter_several_or_a_function(rule, same, other):
    """One parameter, several, or a function of the arguments."""
    shop = Shop(key=rule)
    async with shop.one:
        job = await shop.charge.enqueue("a", 1)
        equal = [await shop.charge.enqueue(*arguments) for arguments in same]
        different = [await shop.charge.enqueue(*arguments) for arguments in other]

    assert {each.id for each in equal} == {job.id}
    assert job.id not in {each.id for each in different}


async def test_no_key_for_this_call():
    """A key function may return None: then the call is one of its own."""
    shop = Shop(key=lambda order, amount: None)
    async with shop.one:
        jobs = [await shop.charge.enqueue("a") for _ in range(3)]

    assert len({job.id for job in jobs}) == 3
    assert shop.claims() == []


@pytest.mark.parametrize("key", ["", 7, b"x"])
async def test_impossible_keys(key):
    """What is no text is no key, and nothing is sent."""
    shop = Shop(key=lambda order, amount: key)
    async with shop.one:
        with pytest.raises(TypeError, match="idempotency key"):
            await shop.charge.enqueue("a")

        assert (await shop.one.stats()).ready == 0


async def test_using_gives_a_key_to_any_task():
    """using(key=…) wins over the task's own rule."""
    shop = Shop()
    async with shop.one:
        one = await shop.charge.using(key="k").enqueue("a")
        two = await shop.charge.using(key="k").enqueue("a")
        three = await shop.charge.enqueue("a")

    assert one.id == two.id != three.id
    assert one.key == "k"


def test_keys_need_a_store():
    """A task with a key on an app without a store is refused when the app starts, with the fix (TC105)."""
    app = App(MemoryBackend())

    @app.task(key="order")
    async def charge(order: str) -> None: ...

    async def start() -> None:
        async with app:
            pass

    with pytest.raises(StoreRequired, match="charge has an idempotency key") as caught:
        anyio.run(start)
    one, other = caught.value.fix.splitlines()
    assert 'store="redis://' in one
    assert 'store="sqlite:///' in other


async def test_using_a_key_without_a_store():
    """A key for a single call needs a store too."""
    app = App(MemoryBackend())

    @app.task
    async def plain() -> None: ...

    async with app:
        with pytest.raises(StoreRequired):
            await plain.using(key="k").enqueue()

        assert (await app.stats()).ready == 0


async def _async_key(order: str, amount: int) -> str:
    return order


@pytest.mark.parametrize(
    ("rule", "advice"),
    [
        ((), "would be one key for all calls"),
        ("", "there is no parameter ''"),
        ("nope", "there is no parameter 'nope'; the function has: order, amount"),
        (("order", "nope"), "there is no parameter 'nope'"),
        (("order", 7), "there is no parameter 7"),
        (5, "expected a parameter's name, a tuple of names or a function, got 5"),
        (["order"], "expected a parameter's name, a tuple of names or a function"),
        (lambda order: order, "give it the same parameters, for example key=lambda order, amount: …"),
        (lambda order, amount, more: order, "give it the same parameters"),
        (lambda: "all", "give it the same parameters"),
        (_async_key, "an async function cannot make a key"),
    ],
)
def test_rules_that_can_make_no_key_are_refused_when_declared(rule, advice):
    """A rule that fits no call, or all calls alike, never gets as far as a call; the text says how to write it."""
    with pytest.raises(InvalidContract) as caught:

        @App("memory://").task(key=rule)
        async def charge(order: str, amount: int = 1) -> None: ...

    assert advice in str(caught.value)


@pytest.mark.parametrize(
    "rule", [lambda *some, **more: some[0], lambda order, amount=2: order, lambda order, **rest: order]
)
def test_rules_that_take_the_arguments_in_another_way(rule):
    """Any signature that can be called with the arguments makes a key."""

    @App("memory://").task(key=rule)
    async def charge(order: str, *, amount: int = 1) -> None: ...

    assert charge.call("a", amount=3).key == "a"


def test_a_key_function_that_answers_what_cannot_be_sent():
    """Half of a surrogate pair is no key: the call is refused, as one without a text is."""

    @App("memory://").task(key=lambda order: order[::-1] and "\ud83d")
    async def charge(order: str) -> None: ...

    with pytest.raises(InvalidArguments, match="idempotency key"):
        charge.call("a")
