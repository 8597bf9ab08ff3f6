"""What people and cancelling need of the in-memory backend; and that nothing piles up in it (C23)."""

from __future__ import annotations

import time

import anyio
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from taskcore.backend import Outgoing, QueueStats, Stored
from taskcore.backends.memory import MemoryBackend
from taskcore.backends.memory.ledger import MAX_STALE_TIMERS, Ledger
from taskcore.lifecycle import ACK, RELEASE, Bury, Reschedule

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]

LEASE = 60.0


@pytest.fixture
def backend():
    """Make an empty broker."""
    return MemoryBackend()


def job(id: str = "1", queue: str = "q", **options) -> Outgoing:
    """Make a job."""
    return Outgoing(queue, id, f"envelope {id}".encode(), **options)


async def test_stats(backend):
    """Each job is counted where it is."""
    await backend.publish([job("1"), job("2"), job("3", delay=100.0), job("4"), job("5", "other")])
    async with backend.consume(["q"], lease=LEASE) as source:
        [first, second] = await source.receive(2)
        await source.settle([(first, Bury("r", b""))])
        await anyio.sleep(10)

        assert await backend.admin.stats(["q"]) == [QueueStats(ready=1, leased=1, scheduled=1, dead=1, oldest=10.0)]
        await source.settle([(second, ACK)])
        await anyio.sleep(100)
        assert await backend.admin.stats(["q"]) == [QueueStats(ready=2, leased=0, scheduled=0, dead=1, oldest=110.0)]
        assert await backend.admin.queues() == ["other", "q"]
        assert await backend.admin.stats(["nowhere"]) == [QueueStats(ready=0, leased=0, scheduled=0, dead=0)]


async def test_the_oldest_job_stays_the_oldest(backend):
    """Giving a job back does not make a queue look fresh."""
    await backend.publish([job("1"), job("2")])
    async with backend.consume(["q"], lease=LEASE) as source:
        await anyio.sleep(10)
        [mine] = await source.receive(1)
        await anyio.sleep(10)
        await source.settle([(mine, RELEASE)])

        assert (await backend.admin.stats(["q"]))[0].oldest == pytest.approx(20.0)


async def test_locate(backend):
    """A job can be found wherever it waits or runs, and not after its end."""
    await backend.publish([job("1"), job("2", delay=9.0)])
    async with backend.consume(["q"], lease=LEASE) as source:
        places = [await backend.admin.locate("q", "1"), await backend.admin.locate("q", "2")]
        [mine] = await source.receive(1)
        places.append(await backend.admin.locate("q", "1"))
        await source.settle([(mine, ACK)])
        places += [await backend.admin.locate("q", "1"), await backend.admin.locate("other", "2")]

    assert places == ["ready", "scheduled", "leased", None, None]


async def test_remove(backend):
    """A job that waits can be taken back and is never handed out; one that runs cannot."""
    await backend.publish([job("1"), job("2", delay=9.0), job("3")])
    async with backend.consume(["q"], lease=LEASE) as source:
        assert await backend.admin.remove("q", "1")
        assert not await backend.admin.remove("q", "1")
        assert not await backend.admin.remove("other", "2")
        assert await backend.admin.remove("q", "2")
        [mine] = await source.receive(9)
        assert not await backend.admin.remove("q", "3")
        await source.settle([(mine, ACK)])
        with anyio.move_on_after(100):
            assert not await source.receive(9)


async def test_purge(backend):
    """All that waits is forgotten, what came back from a lost lease too; running jobs and dead letters stay."""
    await backend.publish([job("lost"), job("runs"), job("dead"), job("1"), job("2", delay=9.0), job("3", "other")])
    async with backend.consume(["q"], lease=LEASE) as source:
        _, runs, dead = await source.receive(3)
        await source.settle([(dead, Bury("r", b""))])
        await anyio.sleep(30)
        await source.extend([runs])
        await anyio.sleep(LEASE - 1)

        assert await backend.admin.purge("q") == 3
        assert await backend.admin.stats(["q"]) == [QueueStats(ready=0, leased=1, scheduled=0, dead=1)]
        assert (await backend.admin.stats(["other"]))[0].ready == 1
        assert await backend.admin.purge("nowhere") == 0


async def bury(backend, count: int) -> None:
    """Make so many dead letters."""
    await backend.publish([job(str(number)) for number in range(count)])
    async with backend.consume(["q"], lease=LEASE) as source:
        await source.settle([(each, Bury("r", b"")) for each in await source.receive(count)])


async def test_letters_in_pages(backend):
    """Letters come oldest first; a page begins behind a letter, also behind one that is gone."""
    await bury(backend, 10)
    first = await backend.admin.letters("q", limit=4)
    for letter in first:
        assert await backend.admin.drop(letter.id)
    second = await backend.admin.letters("q", limit=4, after=first[-1].id)
    third = await backend.admin.letters("q", limit=4, after=second[-1].id)

    assert [letter.envelope.split()[1] for letter in (*first, *second, *third)] == [b"%d" % n for n in range(10)]
    assert await backend.admin.letters("q", limit=4, after=third[-1].id) == []
    assert not await backend.admin.drop(first[0].id)
    assert await backend.admin.letter(first[0].id) is None
    assert await backend.admin.letters("nowhere", limit=4) == []


async def test_replaying_drops_the_letter(backend):
    """A replay is one new job and one letter less."""
    await bury(backend, 1)
    [letter] = await backend.admin.letters("q", limit=4)
    await backend.admin.replay(letter.id, job("new"))

    assert await backend.admin.stats(["q"]) == [QueueStats(ready=1, leased=0, scheduled=0, dead=0, oldest=0.0)]


async def test_deleting_a_queue(backend):
    """A deleted queue is gone with everything in it; leases on it are lost, and it may begin anew."""
    await bury(backend, 1)
    await backend.publish([job("a"), job("b"), job("c", delay=5.0)])
    async with backend.consume(["q"], lease=LEASE) as source:
        [mine] = await source.receive(1)
        await backend.admin.delete("q")

        assert await backend.admin.queues() == []
        assert await source.settle([(mine, ACK)]) == [mine]
        await backend.publish([job("new")])
        assert (await source.receive(1))[0].envelope == b"envelope new"


async def test_cancelling_receive_loses_nothing(backend):
    """A receiver may be cancelled at any moment; whatever it had taken comes back when the lease is over."""
    await backend.publish([job(str(number)) for number in range(20)])
    settled = []

    async def receive(source) -> None:
        while True:
            for delivery in await source.receive(3):
                await anyio.lowlevel.checkpoint()
                if not await source.settle([(delivery, ACK)]):
                    settled.append(delivery.envelope)

    async with backend.consume(["q"], lease=LEASE) as source:
        for switches in range(60):
            async with anyio.create_task_group() as group:
                group.start_soon(receive, source)
                for _ in range(switches % 6):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
        [stats] = await backend.admin.stats(["q"])
        assert stats.ready + stats.leased + len(settled) == 20

        with anyio.move_on_after(3 * LEASE):
            await receive(source)
    assert len(settled) == len(set(settled)) == 20


async def test_cancelled_receivers_leave_nothing_behind(backend):
    """The broker forgets a receiver that does not wait any more."""
    async with backend.consume(["q"], lease=LEASE) as source:
        for _ in range(100):
            with anyio.move_on_after(0.01):
                await source.receive(1)

    assert backend._ledger._waiting == set()


async def test_draining_leaves_no_timers(backend):
    """Fifty thousand settled jobs leave no leases, timers or queue entries behind, long before these would end."""
    async with backend.consume(["q"], lease=3600.0) as source:
        for start in range(0, 50_000, 1000):
            await backend.publish([job(str(start + number)) for number in range(1000)])
            batch = await source.receive(1000)
            await source.settle([(each, ACK) for each in batch])

    ledger = backend._ledger
    assert len(ledger._jobs) == 0
    assert ledger._receipts <= MAX_STALE_TIMERS
    assert sum(len(held) for _, _, held in ledger._leases) <= MAX_STALE_TIMERS
    assert len(ledger.queues["q"].ready) == 0


@pytest.mark.parametrize("delay", [0.0, 3600.0])
async def test_taking_back_leaves_nothing(backend, delay):
    """Jobs that are removed or purged do not stay in memory, even without a receive."""
    for start in range(0, 60_000, 1000):
        await backend.publish([job(str(start + number), delay=delay) for number in range(1000)])
        if start % 2000:
            await backend.admin.purge("q")
        else:
            for number in range(1000):
                await backend.admin.remove("q", str(start + number))

    ledger = backend._ledger
    assert len(ledger._jobs) == 0
    assert len(ledger._due) <= MAX_STALE_TIMERS + 1000
    assert len(ledger.queues["q"].ready) <= MAX_STALE_TIMERS + 1000


class Places(RuleBasedStateMachine):
    """Whatever happens in whatever order: each job is in exactly one place, and the counts agree."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(limit=1000)
        self.now = 0.0
        self.held = []
        self.fences = {}
        self.alive, self.buried, self.sent = set(), 0, 0

    @rule(queue=st.sampled_from("ab"), delay=st.sampled_from([0.0, 5.0, 100.0]))
    def publish(self, queue, delay):
        """Publish a new job."""
        self.sent += 1
        assert isinstance(self.ledger.publish(job(str(self.sent), queue, delay=delay), self.now), Stored)
        self.alive.add(str(self.sent))

    @rule(queues=st.sampled_from(["a", "ab", "ba"]), limit=st.integers(1, 5), lease=st.sampled_from([10.0, 60.0]))
    def receive(self, queues, limit, lease):
        """Receive some jobs; no job is ever held twice."""
        taken = self.ledger.lease(queues, limit, lease, self.now)
        held = {delivery.receipt.job.id for delivery in self.held if delivery.receipt.valid}
        for delivery in taken:
            assert delivery.receipt.fence > self.fences.get(delivery.receipt.job.id, 0)
            self.fences[delivery.receipt.job.id] = delivery.receipt.fence
        self.held += taken
        assert len({delivery.receipt.job.id for delivery in taken} - held) == len(taken)

    @rule(
        number=st.integers(0, 100),
        verdict=st.sampled_from([ACK, RELEASE, Reschedule(0.0, b""), Reschedule(20.0, b""), Bury("r", b"")]),
    )
    def settle(self, number, verdict):
        """Settle a delivery, perhaps too late or twice."""
        if not self.held:
            return
        delivery = self.held[number % len(self.held)]
        self.ledger.advance(self.now)
        valid = delivery.receipt.valid
        assert self.ledger.settle(delivery, verdict, self.now) is valid
        if valid and isinstance(verdict, type(ACK) | Bury):
            self.alive.discard(delivery.receipt.job.id)
            self.buried += isinstance(verdict, Bury)

    @rule(number=st.integers(0, 100))
    def extend(self, number):
        """Extend a lease, perhaps too late."""
        if self.held:
            delivery = self.held[number % len(self.held)]
            self.ledger.advance(self.now)
            assert self.ledger.extend(delivery, self.now + 60.0) is delivery.receipt.valid

    @rule(queue=st.sampled_from("ab"), number=st.integers(1, 50))
    def remove(self, queue, number):
        """Take a job back."""
        if self.ledger.remove(queue, str(number), self.now):
            self.alive.remove(str(number))

    @rule(seconds=st.sampled_from([1.0, 10.0, 60.0, 200.0]))
    def wait(self, seconds):
        """Let time pass."""
        self.now += seconds

    @invariant()
    def each_job_is_in_one_place(self):
        """Check that counts, places and what was done agree."""
        self.ledger.advance(self.now)
        jobs = self.ledger._jobs
        assert set(jobs) == self.alive
        for name, queue in self.ledger.queues.items():
            mine = [each for each in jobs.values() if each.queue is queue]
            assert queue.counts[:3] == [sum(each.place == place for each in mine) for place in range(3)]
            ready = [each for each in queue.ready if each.place == 0]
            assert len(ready) == len(set(map(id, ready))) == queue.counts[0], name
        assert sum(len(queue.letters) for queue in self.ledger.queues.values()) == self.buried

    def teardown(self):
        """Check that every living job can still be received at the end."""
        self.now += 1e6
        left = self.ledger.lease("ab", 10_000, 10.0, self.now)
        assert {delivery.receipt.job.id for delivery in left} == self.alive


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_draining_is_quick():
    """A hundred thousand jobs pass through the ledger in about a second, so timers are not searched one by one."""
    ledger = Ledger(limit=1_000_000)
    began = time.perf_counter()
    for start in range(0, 100_000, 500):
        for number in range(500):
            ledger.publish(job(str(start + number)), 0.0)
        for delivery in ledger.lease(["q"], 500, 60.0, 0.0):
            ledger.settle(delivery, ACK, 0.0)

    assert time.perf_counter() - began < 5
