"""FlakyBackend and FlakyStore: each fault does what it says and nothing else, on command and by script."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, BrokerUnavailable
from taskcore.backend import Backend, Duplicate, Outgoing, Stored, Uncertain
from taskcore.backends.memory import MemoryBackend
from taskcore.faults import Delay, DropReply, Fail, FlakyBackend, FlakyStore, Hang, LateReply, Reorder, Twice
from taskcore.lifecycle import Ack
from taskcore.store import ABSENT, ANY, Store, Write
from taskcore.stores.memory import MemoryStore

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def memory() -> MemoryBackend:
    """Make the broker itself, without faults."""
    return MemoryBackend()


@pytest.fixture
def flaky(memory: MemoryBackend) -> FlakyBackend:
    """Make a connection to it."""
    return FlakyBackend(memory)


def jobs(*names: str) -> list[Outgoing]:
    """Make jobs to publish."""
    return [Outgoing("q", name, name.encode()) for name in names]


async def ready(memory: MemoryBackend) -> list[bytes]:
    """List what is ready in the broker, in its order."""
    if not (await memory.admin.stats(["q"]))[0].ready:
        return []
    async with memory.consume(["q"], lease=0.001) as source:
        return [delivery.envelope for delivery in await source.receive(99)]


async def test_no_fault(flaky: FlakyBackend, memory: MemoryBackend) -> None:
    """Without a fault it is the broker, and counts the calls."""
    backend: Backend = flaky
    async with backend:
        assert list(await backend.publish(jobs("A", "B"))) == [Stored(), Stored()]
        assert await backend.admin.remove("q", "A")
    assert backend.features is memory.features
    assert flaky.calls == {"connect": 1, "publish": 1, "admin": 1, "admin.remove": 1}


async def test_fail(flaky: FlakyBackend, memory: MemoryBackend) -> None:
    """The next call fails and does nothing; the one after that is fine."""
    flaky.next("publish", Fail())
    with pytest.raises(BrokerUnavailable, match="unreachable"):
        await flaky.publish(jobs("A"))
    assert await ready(memory) == []
    assert list(await flaky.publish(jobs("A"))) == [Stored()]


async def test_fail_with_an_error(flaky: FlakyBackend) -> None:
    """A fault may be an error that no adapter should let through."""
    flaky.next("admin.stats", Fail(KeyError("broken adapter")))
    with pytest.raises(KeyError):
        await flaky.admin.stats(["q"])


async def test_always_and_times(flaky: FlakyBackend) -> None:
    """What is planned comes before what is always there; heal ends both."""
    flaky.always("publish", Fail())
    flaky.next("publish", Delay(1.0), times=2)
    for _ in range(2):
        await flaky.publish(jobs("A"))
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            await flaky.publish(jobs("A"))
    flaky.next("publish", Fail(), times=9)
    flaky.heal()
    await flaky.publish(jobs("A"))
    assert flaky.calls["publish"] == 6


async def test_a_script(flaky: FlakyBackend) -> None:
    """A script says for each call what happens; None is a good one."""
    flaky.play("publish", [None, Fail(), None, Fail()])
    went_well = []
    for name in "ABCDE":
        try:
            await flaky.publish(jobs(name))
        except BrokerUnavailable:
            went_well.append(False)
        else:
            went_well.append(True)
    assert went_well == [True, False, True, False, True]


async def test_delay(flaky: FlakyBackend) -> None:
    """A slow call is done after its delay."""
    flaky.next("publish", Delay(3.0))
    began = anyio.current_time()
    assert list(await flaky.publish(jobs("A"))) == [Stored()]
    assert anyio.current_time() - began == pytest.approx(3.0)


async def test_a_late_reply(flaky: FlakyBackend) -> None:
    """A call whose reply is late is done at once: others see it before its caller does."""
    flaky.next("publish", LateReply(3.0))
    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(flaky.publish, jobs("A"))
        await anyio.sleep(1.0)
        assert (await flaky.admin.stats(["q"]))[0].ready == 1
    assert anyio.current_time() - began == pytest.approx(3.0)


async def test_hang(flaky: FlakyBackend, memory: MemoryBackend) -> None:
    """A call that hangs does nothing, can be cancelled, and ends with heal."""
    flaky.always("publish", Hang())
    with anyio.move_on_after(60.0) as limit:
        await flaky.publish(jobs("A"))
    assert limit.cancelled_caught
    async with anyio.create_task_group() as group:

        async def publish() -> None:
            with pytest.raises(BrokerUnavailable):
                await flaky.publish(jobs("A"))

        group.start_soon(publish)
        await anyio.wait_all_tasks_blocked()
        flaky.heal()
    assert await ready(memory) == []


async def test_dropped_replies(flaky: FlakyBackend, memory: MemoryBackend) -> None:
    """A call is carried out, but its reply is lost: Uncertain where the seam has it, else BrokerUnavailable."""
    flaky.next("publish", DropReply())
    [answer] = await flaky.publish(jobs("A"))
    assert isinstance(answer, Uncertain)
    flaky.next("publish", DropReply("raise"))
    with pytest.raises(BrokerUnavailable, match="the reply was lost"):
        await flaky.publish(jobs("B"))
    assert await ready(memory) == [b"A", b"B"]
    assert list(await flaky.publish(jobs("A"))) == [Duplicate()]


async def test_a_dropped_reply_to_settle(flaky: FlakyBackend) -> None:
    """A verdict is carried out although its caller gets an outage; settling again finds the lease gone."""
    await flaky.publish(jobs("A"))
    flaky.next("settle", DropReply())
    async with flaky.consume(["q"], lease=60.0) as source:
        [delivery] = await source.receive(1)
        with pytest.raises(BrokerUnavailable):
            await source.settle([(delivery, Ack())])
        assert list(await source.settle([(delivery, Ack())])) == [delivery]


async def test_a_dropped_delivery(flaky: FlakyBackend) -> None:
    """A hand-out whose reply is lost comes again when its lease ends."""
    await flaky.publish(jobs("A"))
    flaky.next("receive", DropReply())
    async with flaky.consume(["q"], lease=10.0) as source:
        began = anyio.current_time()
        with pytest.raises(BrokerUnavailable):
            await source.receive(1)
        [delivery] = await source.receive(1)
    assert delivery.redeliveries == 1
    assert anyio.current_time() - began == pytest.approx(10.0)


async def test_twice(flaky: FlakyBackend, memory: MemoryBackend) -> None:
    """A doubled call is carried out twice, and its first answer counts; a broker with dedup has one job."""
    flaky.next("publish", Twice())
    assert list(await flaky.publish(jobs("A"))) == [Stored()]
    assert await ready(memory) == [b"A"]


async def test_reorder(flaky: FlakyBackend, memory: MemoryBackend) -> None:
    """A batch is carried out backwards, its answers belong to the items; deliveries come backwards."""
    await memory.publish(jobs("B"))
    flaky.next("publish", Reorder())
    assert list(await flaky.publish(jobs("A", "B", "C"))) == [Stored(), Duplicate(), Stored()]
    flaky.next("receive", Reorder())
    async with flaky.consume(["q"], lease=60.0) as source:
        assert [delivery.envelope for delivery in await source.receive(9)] == [b"A", b"C", b"B"]


async def test_partition(flaky: FlakyBackend, memory: MemoryBackend) -> None:
    """In a partition every verb fails, a waiting receiver fails at once, and other connections are not touched."""
    async with flaky.consume(["q"], lease=60.0) as source, anyio.create_task_group() as group:

        async def wait() -> None:
            began = anyio.current_time()
            with pytest.raises(BrokerUnavailable):
                await source.receive(1)
            assert anyio.current_time() <= began + 1.0

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        flaky.partition()
        for call in (
            lambda: flaky.publish(jobs("A")),
            lambda: source.extend([]),
            lambda: source.settle([]),
            flaky.admin.queues,
            flaky.__aenter__,
        ):
            with pytest.raises(BrokerUnavailable):
                await call()
        assert list(await memory.publish(jobs("A"))) == [Stored()]
        flaky.heal()
        assert len(await source.receive(1)) == 1


async def test_waiting_in_a_partition_can_be_cancelled(flaky: FlakyBackend) -> None:
    """A wait that the caller gives up is a cancellation, not an outage."""
    async with flaky.consume(["q"], lease=60.0) as source:
        with anyio.move_on_after(1.0) as limit:
            await source.receive(1)
    assert limit.cancelled_caught


async def test_admin(flaky: FlakyBackend) -> None:
    """People's verbs have faults too: all of them, or one by its name."""
    await flaky.publish(jobs("A"))
    flaky.always("admin", Fail())
    flaky.always("admin.locate", Delay(1.0))
    assert await flaky.admin.locate("q", "A") == "ready"
    for call in (
        flaky.admin.queues,
        lambda: flaky.admin.stats(["q"]),
        lambda: flaky.admin.purge("q"),
        lambda: flaky.admin.delete("q"),
        lambda: flaky.admin.remove("q", "A"),
        lambda: flaky.admin.letters("q", limit=1),
        lambda: flaky.admin.letter("1"),
        lambda: flaky.admin.replay("1", jobs("B")[0]),
        lambda: flaky.admin.drop("1"),
    ):
        with pytest.raises(BrokerUnavailable):
            await call()
    flaky.heal()
    assert (await flaky.admin.stats(["q"]))[0].ready == 1


async def test_a_store() -> None:
    """A store's verbs fail, are done without a reply, or out of order, as planned."""
    flaky = FlakyStore(MemoryStore())
    store: Store = flaky
    async with store:
        flaky.next("put", DropReply())
        with pytest.raises(BrokerUnavailable):
            await store.put("a", b"1", expect=ABSENT, keep=None)
        record = await store.get("a")
        assert record is not None
        assert record.value == b"1"
        flaky.next("get", Fail())
        with pytest.raises(BrokerUnavailable):
            await store.get("a")
        flaky.next("delete", Fail())
        with pytest.raises(BrokerUnavailable):
            await store.delete("a", expect=ANY)
        assert await store.delete("a", expect=ANY)
        flaky.next("put_many", Reorder())
        writes = [Write(key="a", value=b"1", expect=ABSENT), Write(key="a", value=b"2", expect=ABSENT)]
        conflict, version = await store.put_many(writes)
        found = await store.get("a")
        assert found is not None
        assert (found.value, found.version) == (b"2", version)
        assert conflict != version
    assert flaky.calls["get"] == 3


async def test_a_watch() -> None:
    """A watch fails when it begins, or in the middle of a partition."""
    flaky = FlakyStore(MemoryStore())
    flaky.next("watch", Fail())
    with pytest.raises(BrokerUnavailable):
        async with flaky.watch("a"):
            pass
    async with flaky.watch("a") as records:
        await flaky.put("a", b"1", expect=ANY, keep=None)
        assert (await anext(records)).value == b"1"
        async with anyio.create_task_group() as group:

            async def read() -> None:
                with pytest.raises(BrokerUnavailable):
                    await anext(records)

            group.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            flaky.partition()


async def test_an_app_works_through_injected_faults() -> None:
    """A worker behind a broker and a store that come and go does its jobs all the same."""
    backend, store = FlakyBackend(MemoryBackend()), FlakyStore(MemoryStore())
    app = App(backend, store=store)

    @app.task
    async def work(number: int) -> int:
        await anyio.sleep(1.0)
        return number

    async with app.running():
        sent = [await work.enqueue(number) for number in range(5)]
        await anyio.sleep(0.5)
        backend.partition()
        store.partition()
        await anyio.sleep(20.0)
        backend.heal()
        store.heal()
        assert [await job.result(timeout=300) for job in sent] == list(range(5))
