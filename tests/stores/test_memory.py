"""The in-memory store at its seam: compare-and-set, time to live, watches; the reference for all others."""

from __future__ import annotations

import tracemalloc

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore.store import ABSENT, ANY, Conflict, Record, Write
from taskcore.stores.memory import MAX_STALE_TIMERS, MemoryStore
from tests.support.virtual import options

pytestmark = [pytest.mark.anyio, pytest.mark.virtual]


@pytest.fixture
def store():
    """Make an empty store."""
    return MemoryStore()


async def test_a_written_record_can_be_read(store):
    """A record is value and version; what was never written is None."""
    version = await store.put("k", b"v", expect=ANY, keep=None)

    assert await store.get("k") == Record(b"v", version)
    assert await store.get("other") is None


async def test_expecting_nothing(store):
    """ABSENT writes only if there is no record, and else shows what there is."""
    version = await store.put("k", b"1", expect=ABSENT, keep=None)

    assert await store.put("k", b"2", expect=ABSENT, keep=None) == Conflict(Record(b"1", version))
    assert (await store.get("k")).value == b"1"


async def test_expecting_a_version(store):
    """A version writes only on top of itself."""
    first = await store.put("k", b"1", expect=ABSENT, keep=None)
    second = await store.put("k", b"2", expect=first, keep=None)

    assert await store.put("k", b"3", expect=first, keep=None) == Conflict(Record(b"2", second))
    assert await store.put("other", b"3", expect=first, keep=None) == Conflict(None)
    assert (await store.get("k")).value == b"2"


async def test_deleting(store):
    """Deleting says whether there was something to delete that was as expected."""
    version = await store.put("k", b"1", expect=ANY, keep=None)

    assert not await store.delete("k", expect="another")
    assert await store.delete("k", expect=version)
    assert not await store.delete("k", expect=ANY)
    assert not await store.delete("k", expect=ABSENT)
    assert await store.get("k") is None


async def test_many_writes(store):
    """One answer for each write, in order; one that fails does not stop the others."""
    known = await store.put("known", b"1", expect=ANY, keep=None)
    a, b, c, d, e, f = await store.put_many(
        [
            Write(key="new", value=b"n", expect=ABSENT),
            Write(key="known", value=b"x", expect=ABSENT),
            Write(key="known", value=b"2", expect=known),
            Write(key="known", value=None, expect=known),
            Write(key="missing", value=None),
            Write(key="missing", value=None, expect=known),
        ]
    )

    assert (await store.get("new")).version == a
    assert b == Conflict(Record(b"1", known))
    assert d == Conflict(Record(b"2", c))
    assert (e, f) == ("", Conflict(None))


async def test_deleting_in_a_batch_answers_with_the_version(store):
    """A delete in a batch answers with the version that it deleted."""
    version = await store.put("k", b"1", expect=ANY, keep=None)

    assert await store.put_many([Write(key="k", value=None, expect=version)]) == [version]
    assert await store.get("k") is None


async def test_versions_never_repeat(store):
    """A version that was once on a key never comes again, not after deleting, not after its end."""
    versions = []
    for number in range(30):
        versions.append(await store.put("k", b"same", expect=ANY, keep=1.0))
        if number % 3 == 0:
            await store.delete("k", expect=ANY)
        elif number % 3 == 1:
            await anyio.sleep(2)

    assert len(set(versions)) == 30
    assert isinstance(await store.put("k", b"late", expect=versions[0], keep=None), Conflict)


@pytest.mark.parametrize("keep", [0.001, 1.0, 3600.0, 7 * 86_400.0])
async def test_an_end_is_exact(store, keep):
    """A record is there until its time is over, and not any more from then on."""
    await store.put("k", b"v", expect=ANY, keep=keep)
    await anyio.sleep(keep * 0.999)
    assert await store.get("k") is not None

    await anyio.sleep(keep * 0.0011)
    assert await store.get("k") is None


async def test_an_expired_record_is_absent_for_every_verb(store):
    """No verb sees a record whose time is over."""

    async def ended():
        version = await store.put("k", b"old", expect=ANY, keep=1.0)
        await anyio.sleep(1.0)
        return version

    version = await ended()
    assert await store.put("k", b"new", expect=version, keep=None) == Conflict(None)
    assert not await store.delete("k", expect=version)
    assert not await store.delete("k", expect=ANY)
    assert await store.put_many([Write(key="k", value=None, expect=version)]) == [Conflict(None)]
    assert await store.put_many([Write(key="k", value=b"new", expect=version)]) == [Conflict(None)]
    assert not isinstance(await store.put("k", b"new", expect=ABSENT, keep=None), Conflict)
    await store.delete("k", expect=ANY)
    await ended()
    [answer] = await store.put_many([Write(key="k", value=b"new", expect=ABSENT)])
    assert not isinstance(answer, Conflict)


async def test_a_write_sets_the_end_anew(store):
    """The last write says how long, longer or shorter or for ever."""
    await store.put("k", b"1", expect=ANY, keep=10.0)
    await store.put("k", b"2", expect=ANY, keep=100.0)
    await anyio.sleep(50)
    assert (await store.get("k")).value == b"2"

    await store.put("k", b"3", expect=ANY, keep=1.0)
    await anyio.sleep(2)
    assert await store.get("k") is None

    await store.put("k", b"4", expect=ANY, keep=1.0)
    await store.put("k", b"5", expect=ANY, keep=None)
    await anyio.sleep(86_000)
    assert (await store.get("k")).value == b"5"


async def test_a_watch_begins_with_what_is_there(store):
    """The first item is the record as it is; then each new one, without a single read."""
    await store.put("k", b"1", expect=ANY, keep=None)
    seen = []

    async def watch() -> None:
        async with store.watch("k") as records:
            async for record in records:
                seen.append(record.value)  # noqa: PERF401 - it is cancelled in the middle

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await anyio.sleep(1)
        await store.put("other", b"x", expect=ANY, keep=None)
        await store.put("k", b"2", expect=ANY, keep=None)
        await anyio.sleep(1)
        await store.put_many([Write(key="k", value=b"3")])
        await anyio.sleep(1)
        group.cancel_scope.cancel()

    assert seen == [b"1", b"2", b"3"]


async def test_nothing_is_missed_between_entering_and_reading(store):
    """A write after entering is seen, also before the first wait."""
    async with store.watch("k") as records:
        await store.put("k", b"1", expect=ANY, keep=None)
        record = await anext(aiter(records))

    assert record.value == b"1"


async def test_the_latest_is_never_missed(store):
    """A slow reader may miss records in between, never the last one."""
    seen = []

    async def watch() -> None:
        async with store.watch("k") as records:
            async for record in records:
                seen.append(int(record.value))
                await anyio.sleep(5)

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        for number in range(100):
            await anyio.sleep(0.3)
            await store.put("k", b"%d" % number, expect=ANY, keep=None)
        await anyio.sleep(20)
        group.cancel_scope.cancel()

    assert seen == sorted(seen)
    assert seen[-1] == 99


async def test_many_watches(store):
    """Every watch sees the write, and nothing is left of the watches afterwards."""
    seen = []

    async def watch(key: str) -> None:
        async with store.watch(key) as records:
            async for record in records:
                seen.append((key, record.value))
                return

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(watch, "a")
            group.start_soon(watch, "b")
        await anyio.sleep(1)
        await store.put("a", b"1", expect=ANY, keep=None)
        await store.put("b", b"2", expect=ANY, keep=None)

    assert sorted(seen) == [("a", b"1")] * 10 + [("b", b"2")] * 10
    assert not store.watches


async def test_a_cancelled_watch_leaves_nothing(store):
    """Giving up waiting is not remembered."""
    for _ in range(10):
        with anyio.move_on_after(1):
            async with store.watch("k") as records:
                await anext(aiter(records))

    assert not store.watches


async def test_nothing_piles_up(store):
    """Records that ended or were overwritten, and their timers, do not stay in memory (C23)."""
    for number in range(60_000):
        await store.put(f"k{number % 10}", b"v", expect=ANY, keep=3600.0)
    for number in range(30_000):
        await store.put(f"t{number}", b"v", expect=ANY, keep=1.0)
        await store.delete(f"t{number}", expect=ANY)

    assert len(store._records) == 10
    assert len(store._ends) <= MAX_STALE_TIMERS + 100
    await anyio.sleep(3601)
    await store.get("k0")
    assert len(store._records) == len(store._ends) == 0


async def test_a_long_life_takes_no_more_memory_than_a_short_one(store):
    """A worker's memory does not grow by megabytes with the markers of the jobs that it has run, each deleted (C23)."""

    async def run_jobs(numbers):
        for number in numbers:
            await store.put(f"start/{number:032}/0", b"v", expect=ANY, keep=86_400.0)
            await store.delete(f"start/{number:032}/0", expect=ANY)

    tracemalloc.start()
    try:
        await run_jobs(range(1_500))
        before, _ = tracemalloc.get_traced_memory()
        await run_jobs(range(1_500, 9_000))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 500_000


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(deadline=None, max_examples=50)
@given(switches=st.lists(st.integers(0, 4), min_size=8, max_size=8), rounds=st.integers(1, 5))
def test_concurrent_increments_lose_nothing(backend, switches, rounds):
    """Read, write on that version, again on a conflict: every increment counts, whichever task comes between."""

    async def play() -> None:
        store = MemoryStore()

        async def increment(pause: int) -> None:
            for _ in range(rounds):
                while True:
                    record = await store.get("n")
                    for _ in range(pause):
                        await anyio.lowlevel.checkpoint()
                    number = int(record.value) + 1 if record else 1
                    expect = record.version if record else ABSENT
                    if not isinstance(await store.put("n", b"%d" % number, expect=expect, keep=None), Conflict):
                        break
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            for pause in switches:
                group.start_soon(increment, pause)
        record = await store.get("n")
        assert int(record.value) == rounds * len(switches)

    anyio.run(play, backend=backend, backend_options=options(backend))


async def test_many_records_are_read_in_order(store):
    """``get_many`` answers for each key, in order; a missing record is None."""
    await store.put("a", b"1", expect=ANY, keep=None)
    await store.put("b", b"2", expect=ANY, keep=None)
    found = await store.get_many(["b", "missing", "a"])
    assert [record and record.value for record in found] == [b"2", None, b"1"]
    assert await store.get_many([]) == []
