"""The in-memory backend at its seam: publish, receive, settle, extend; the reference for all others."""

from __future__ import annotations

import anyio
import pytest

from taskcore.backend import DUPLICATE, STORED, Outgoing, Refused
from taskcore.backends.memory import MemoryBackend
from taskcore.backends.memory.ledger import DEDUP_WINDOW
from taskcore.lifecycle import ACK, RELEASE, Bury, Reschedule

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]

LEASE = 60.0


@pytest.fixture
def backend():
    """Make an empty broker."""
    return MemoryBackend()


def job(id: str = "1", queue: str = "q", **options) -> Outgoing:
    """Make a job; to the broker it is bytes."""
    return Outgoing(queue, id, f"envelope {id}".encode(), **options)


def names(deliveries):
    """Name these jobs."""
    return [delivery.envelope.decode().removeprefix("envelope ") for delivery in deliveries]


async def now_or_never(source, limit: int = 100):
    """Receive what is ready at this moment."""
    with anyio.move_on_after(1e-3):
        return list(await source.receive(limit))
    return []


# ── in and out ───────────────────────────────────────────────────────────────────────────────────


async def test_first_in_first_out(backend):
    """Jobs of one queue are handed out in the order in which they were stored."""
    assert await backend.publish([job(str(number)) for number in range(10)]) == [STORED] * 10
    async with backend.consume(["q"], lease=LEASE) as source:
        assert names(await source.receive(4)) == ["0", "1", "2", "3"]
        assert names(await source.receive(100)) == ["4", "5", "6", "7", "8", "9"]


async def test_earlier_queues_first(backend):
    """What is in an earlier queue is handed out before everything in a later one."""
    await backend.publish([job("1", "late"), job("2", "early"), job("3", "late"), job("4", "early"), job("5", "other")])
    async with backend.consume(["early", "late"], lease=LEASE) as source:
        assert names(await source.receive(3)) == ["2", "4", "1"]
        assert names(await now_or_never(source)) == ["3"]


async def test_a_delivery_has_what_was_published(backend):
    """A delivery has queue, bytes and trail as they were given, and no redeliveries."""
    await backend.publish([job(trail=b"trail")])
    async with backend.consume(["q"], lease=LEASE) as source:
        [delivery] = await source.receive(1)

    assert (delivery.queue, delivery.envelope, delivery.trail) == ("q", b"envelope 1", b"trail")
    assert delivery.redeliveries == 0


async def test_receiving_waits(backend):
    """A receiver that finds no job waits for a publish."""
    async with backend.consume(["q"], lease=LEASE) as source, anyio.create_task_group() as group:
        got = []

        async def receive() -> None:
            got.extend(names(await source.receive(10)))

        group.start_soon(receive)
        await anyio.sleep(1000)
        assert got == []

        await backend.publish([job()])
    assert got == ["1"]


async def test_a_job_goes_to_one_of_many(backend):
    """Each job is handed to one source only, however many wait."""
    got = []

    async def receive() -> None:
        async with backend.consume(["q"], lease=LEASE) as source:
            while True:
                got.extend(names(await source.receive(3)))

    async with anyio.create_task_group() as group:
        for _ in range(7):
            group.start_soon(receive)
        for number in range(100):
            await backend.publish([job(str(number))])
            await anyio.sleep(0.001)
        await anyio.sleep(1)
        group.cancel_scope.cancel()

    assert sorted(map(int, got)) == list(range(100))


# ── time ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("delay", [0.001, 1.0, 59.9, 60.0, 86_400.0, 90 * 86_400.0])
async def test_a_delay_is_exact(backend, delay):
    """A delayed job is handed out when it is due: never before, and without new traffic not after (C16)."""
    began = anyio.current_time()
    await backend.publish([job(delay=delay)])
    async with backend.consume(["q"], lease=LEASE) as source:
        await source.receive(1)

    assert anyio.current_time() - began >= delay
    assert anyio.current_time() - began == pytest.approx(delay)


async def test_delayed_jobs_are_delivered_in_due_order(backend):
    """The later published but sooner due comes first."""
    await backend.publish([job("1", delay=3.0), job("2", delay=1.0), job("3", delay=2.0), job("4")])
    async with backend.consume(["q"], lease=LEASE) as source:
        assert [names(await source.receive(9)) for _ in range(4)] == [["4"], ["2"], ["3"], ["1"]]


async def test_a_shorter_delay_wakes_a_receiver_that_waits_for_a_longer_one(backend):
    """A receiver that knows of a job next week finds one that is due in a second."""
    await backend.publish([job("1", delay=7 * 86_400.0)])
    async with backend.consume(["q"], lease=LEASE) as source, anyio.create_task_group() as group:
        at = []

        async def receive() -> None:
            await source.receive(1)
            at.append(anyio.current_time())

        began = anyio.current_time()
        group.start_soon(receive)
        await anyio.sleep(10)
        await backend.publish([job("2", delay=1.0)])

    assert at == [pytest.approx(began + 11.0)]


async def test_a_lease_runs_out(backend):
    """An unsettled job comes back when its lease is over, counted, first in line, without new traffic (C4)."""
    await backend.publish([job("1"), job("2")])
    async with backend.consume(["q"], lease=LEASE) as source:
        began = anyio.current_time()
        assert names(await source.receive(1)) == ["1"]
        [second] = await source.receive(1)
        await source.settle([(second, ACK)])
        [again] = await source.receive(1)

        assert anyio.current_time() - began == pytest.approx(LEASE)
        assert names([again]) == ["1"]
        assert again.redeliveries == 1
        assert (await source.receive(1))[0].redeliveries == 2


async def test_extending(backend):
    """An extended lease lasts its full length from then on."""
    await backend.publish([job()])
    async with backend.consume(["q"], lease=LEASE) as source:
        [mine] = await source.receive(1)
        for _ in range(10):
            await anyio.sleep(LEASE - 1)
            assert await source.extend([mine]) == []
        began = anyio.current_time()
        [again] = await source.receive(1)

        assert anyio.current_time() - began == pytest.approx(LEASE)
        assert again.redeliveries == 1


async def test_batches_extend_one_by_one(backend):
    """Leases that were taken together end apart if only some are extended."""
    await backend.publish([job(str(number)) for number in range(4)])
    async with backend.consume(["q"], lease=LEASE) as source:
        batch = await source.receive(4)
        await anyio.sleep(30)
        await source.extend(batch[:2])
        await anyio.sleep(31)

        assert sorted(names(await now_or_never(source))) == ["2", "3"]
        assert await source.extend(batch) == batch[2:]


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────────


async def test_ack(backend):
    """What is acknowledged is gone."""
    await backend.publish([job()])
    async with backend.consume(["q"], lease=LEASE) as source:
        [mine] = await source.receive(1)
        assert await source.settle([(mine, ACK)]) == []
        await anyio.sleep(10 * LEASE)

        assert await now_or_never(source) == []
        assert (await backend.admin.stats(["q"]))[0].leased == 0


async def test_retry(backend):
    """A retry comes when it is due, with its new trail, and its redeliveries begin anew."""
    await backend.publish([job()])
    async with backend.consume(["q"], lease=LEASE) as source:
        await source.receive(1)
        [mine] = await source.receive(1)
        assert mine.redeliveries == 1
        began = anyio.current_time()
        await source.settle([(mine, Reschedule(123.0, b"new trail"))])
        [again] = await source.receive(1)

        assert anyio.current_time() - began == pytest.approx(123.0)
        assert (again.trail, again.envelope, again.redeliveries) == (b"new trail", b"envelope 1", 0)


async def test_release(backend):
    """A released job is first in line again, at once, and nothing is held against it."""
    await backend.publish([job("1"), job("2")])
    async with backend.consume(["q"], lease=LEASE) as source:
        [mine] = await source.receive(1)
        await source.settle([(mine, RELEASE)])
        [again, _] = await source.receive(2)

        assert names([again]) == ["1"]
        assert (again.redeliveries, again.trail) == (0, b"")


async def test_released_jobs_keep_their_order(backend):
    """Several jobs given back together are handed out in any order, but before those that waited behind them."""
    await backend.publish([job(str(number)) for number in range(6)])
    async with backend.consume(["q"], lease=LEASE) as source:
        batch = await source.receive(3)
        await source.settle([(each, RELEASE) for each in batch])

        assert sorted(names(await source.receive(3))) == ["0", "1", "2"]
        assert names(await source.receive(3)) == ["3", "4", "5"]


async def test_bury(backend):
    """A buried job is a dead letter with the bytes as they came, and is never handed out again."""
    raw = bytes(range(256))
    await backend.publish([Outgoing("q", "1", raw, b"old")])
    async with backend.consume(["q"], lease=LEASE) as source:
        [mine] = await source.receive(1)
        await source.settle([(mine, Bury("poison", b"new"))])
        [letter] = await backend.admin.letters("q", limit=10)

        assert (letter.envelope, letter.trail, letter.reason, letter.queue) == (raw, b"new", "poison", "q")
        assert await now_or_never(source) == []
        assert await backend.admin.letter(letter.id) == letter


@pytest.mark.parametrize(
    "verdict", [ACK, RELEASE, Reschedule(5.0, b"x"), Bury("r", b"x")], ids=lambda verdict: type(verdict).__name__
)
async def test_a_lost_lease_changes_nothing(backend, verdict):
    """After its end a lease settles nothing and extends nothing, whichever worker has the job now (C7)."""
    await backend.publish([job()])
    async with backend.consume(["q"], lease=LEASE) as source:
        [old] = await source.receive(1)
        await anyio.sleep(LEASE)
        assert await source.settle([(old, verdict)]) == [old]
        assert await source.extend([old]) == [old]
        assert (await backend.admin.stats(["q"]))[0].ready == 1

        [new] = await source.receive(1)
        assert await source.settle([(old, verdict)]) == [old]
        assert (await backend.admin.stats(["q"]))[0].leased == 1
        assert await source.settle([(new, ACK)]) == []
        assert await source.settle([(new, verdict), (old, verdict)]) == [new, old]


async def test_a_receipt_works_once(backend):
    """Settling twice reports a lost lease the second time, also within one batch."""
    await backend.publish([job()])
    async with backend.consume(["q"], lease=LEASE) as source:
        [mine] = await source.receive(1)

        assert await source.settle([(mine, RELEASE), (mine, ACK)]) == [mine]
        [again] = await source.receive(1)
        assert await source.settle([(mine, ACK)]) == [mine]
        assert await source.settle([(again, ACK)]) == []


# ── duplicates and limits ────────────────────────────────────────────────────────────────────────


async def test_duplicates(backend):
    """An id is known while its job lives, wherever it is, and for a while after its end."""
    assert await backend.publish([job(), job()]) == [STORED, DUPLICATE]
    async with backend.consume(["q"], lease=LEASE) as source:
        [mine] = await source.receive(1)
        assert await backend.publish([job()]) == [DUPLICATE]
        await source.settle([(mine, Reschedule(1000.0, b""))])
        assert await backend.publish([job(queue="elsewhere")]) == [DUPLICATE]
        [mine] = await source.receive(1)
        await source.settle([(mine, ACK)])
        await anyio.sleep(DEDUP_WINDOW - 0.1)
        assert await backend.publish([job()]) == [DUPLICATE]

        await anyio.sleep(0.2)
        assert await backend.publish([job()]) == [STORED]


async def test_a_full_queue_refuses(backend):
    """What a queue holds is bounded, dead letters included; it says so, and other queues go on."""
    backend = MemoryBackend("memory://?limit=3")
    answers = await backend.publish([job("1"), job("2", delay=9.0), job("3"), job("4"), job("5", "other")])

    assert [type(answer).__name__ for answer in answers] == ["Stored", "Stored", "Stored", "Refused", "Stored"]
    assert answers[3] == Refused('queue "q" is full: it holds 3 jobs and dead letters, its limit')
    async with backend.consume(["q"], lease=LEASE) as source:
        [first, second] = await source.receive(2)
        await source.settle([(first, ACK), (second, Bury("r", b""))])
        stored, refused = await backend.publish([job("6"), job("7")])
        assert (stored, type(refused)) == (STORED, Refused)


async def test_a_full_queue_can_still_retry_and_replay():
    """What is in the queue already never has to leave because of the limit."""
    backend = MemoryBackend("memory://?limit=1")
    await backend.publish([job()])
    async with backend.consume(["q"], lease=LEASE) as source:
        [mine] = await source.receive(1)
        await source.settle([(mine, Reschedule(1.0, b""))])
        [mine] = await source.receive(1)
        await source.settle([(mine, Bury("r", b""))])
        [letter] = await backend.admin.letters("q", limit=10)

        assert await backend.admin.replay(letter.id, job("2")) == STORED
        assert names(await source.receive(1)) == ["2"]
