"""Checks of stores: records with compare-and-set and an end. Keys, results and tombstones rest on them."""

from __future__ import annotations

import anyio

from taskcore.conformance.checks import STORE_CHECKS, check, require
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.harness import Harness
from taskcore.store import ABSENT, ANY, Conflict, Store, Version, Write


async def _put(store: Store, key: str, value: bytes, *, keep: float | None = 60.0) -> Version:
    """Write, whatever is there; a Conflict would be wrong."""
    answer = await store.put(key, value, expect=ANY, keep=keep)
    if isinstance(answer, Conflict):
        raise ClauseViolated("a write that expects nothing in particular met a conflict")
    return answer


async def _value(store: Store, key: str) -> bytes | None:
    record = await store.get(key)
    return record.value if record is not None else None


@check(STORE_CHECKS, "C10", store=True)
async def records_are_read_as_written(harness: Harness) -> None:
    """Every reader gets the bytes that were written, under any key."""
    store, other, nasty = await harness.store(), await harness.store(), bytes(range(256)) * 20
    keys = [harness.name(end) for end in ("plain", "a/b/c", "dots.and-dashes_", "x" * 200, "keys/ä 任务", "a*b>c?")]
    for number, key in enumerate(keys):
        require(await store.get(key) is None, f"a record {key!r} is there before it was written")
        await _put(store, key, nasty + bytes([number]))
    for number, key in enumerate(keys):
        require(await _value(other, key) == nasty + bytes([number]), f"the record {key!r} did not come back as written")
    found = [record and record.value for record in await other.get_many([harness.name("absent"), *reversed(keys)])]
    wanted = [None, *(nasty + bytes([number]) for number in reversed(range(len(keys))))]
    require(found == wanted, "records that were read together did not come back as written, in order")
    require(not await other.get_many([]), "reading no records gave some")
    await _put(store, keys[0], b"")
    require(await _value(other, keys[0]) == b"", "an empty record is not a record")


@check(STORE_CHECKS, "C10", "C18", store=True)
async def only_one_writer_creates_a_record(harness: Harness) -> None:
    """A write that expects no record fails if there is one, changes nothing and returns that record."""
    store, key = await harness.store(), harness.name("once")
    version = await store.put(key, b"first", expect=ABSENT, keep=60.0)
    require(not isinstance(version, Conflict), "a first write met a conflict")
    answer = await store.put(key, b"second", expect=ABSENT, keep=60.0)
    if not isinstance(answer, Conflict) or answer.current is None:
        raise ClauseViolated(f"a second write that expects nothing there was answered with {answer!r}")
    require((answer.current.value, answer.current.version) == (b"first", version), "the conflict shows another record")
    require(await _value(store, key) == b"first", "a write that lost changed the record")


@check(STORE_CHECKS, "C10", "C7", store=True)
async def a_version_allows_one_write(harness: Harness) -> None:
    """A write that expects a version succeeds if there was no write since; otherwise it changes nothing."""
    store, other, key = await harness.store(), await harness.store(), harness.name("cas")
    first = await _put(store, key, b"1")
    second = await store.put(key, b"2", expect=first, keep=60.0)
    require(not isinstance(second, Conflict), "a write with the current version met a conflict")
    require(second != first, "two writes gave the same version")
    late = await other.put(key, b"late", expect=first, keep=60.0)
    require(isinstance(late, Conflict), "a write with an old version was done")
    require(not await other.delete(key, expect=first), "a delete with an old version was done")
    record = await store.get(key)
    require(
        record is not None and (record.value, record.version) == (b"2", second), "a write that lost changed the record"
    )
    if isinstance(second, Conflict):
        return
    require(await store.delete(key, expect=second), "a delete with the current version was not done")
    require(await store.get(key) is None, "a deleted record is there")
    lost = await store.put(key, b"back", expect=second, keep=60.0)
    require(isinstance(lost, Conflict) and lost.current is None, "a write brought back a record that it expected there")


@check(STORE_CHECKS, "C10", "C7", store=True)
async def versions_never_repeat(harness: Harness) -> None:
    """A key never has the same version twice, not even after its record was deleted or has expired."""
    store, key = await harness.store(), harness.name("versions")
    seen: list[Version] = []
    for number in range(4):
        seen.extend([await _put(store, key, b"x"), await _put(store, key, b"x")])
        if number % 2:
            await store.delete(key, expect=ANY)
        else:
            await _put(store, key, b"x", keep=0.2)
            await harness.outlast(0.2)
    require(len(set(seen)) == len(seen), f"of {len(seen)} versions some are equal: {seen}")


@check(STORE_CHECKS, "C10", store=True)
async def one_of_many_concurrent_writes_succeeds(harness: Harness) -> None:
    """Of many concurrent writes of one record that expect the same version, exactly one succeeds."""
    stores, key = [await harness.store() for _ in range(3)], harness.name("race")
    expected: Version | None = None
    for _ in range(5):
        won: list[Version] = []

        async def write(number: int, expect: Version | None, won: list[Version]) -> None:
            wanted = ABSENT if expect is None else expect
            answer = await stores[number % 3].put(key, b"%d" % number, expect=wanted, keep=60.0)
            if not isinstance(answer, Conflict):
                won.append(answer)

        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(write, number, expected, won)
        require(len(won) == 1, f"{len(won)} of 9 writers with the same expectation succeeded")
        expected = won[0]


@check(STORE_CHECKS, "C23", store=True)
async def an_expired_record_is_absent_for_every_verb(harness: Harness) -> None:
    """An expired record is absent for every verb and every reader."""
    store, other, keep = await harness.store(), await harness.store(), 0.3
    keys = [harness.name(f"brief{number}") for number in range(4)]
    require(await _value(other, keys[0]) is None, "a record was there before it was written")  # and now it is connected
    versions = [await _put(store, key, b"brief", keep=keep) for key in keys]
    require(await _value(other, keys[-1]) == b"brief", "a record was gone before its time")
    await harness.outlast(keep)
    require(await other.get(keys[0]) is None, "a record whose time is over can still be read")
    require(not await store.delete(keys[1], expect=ANY), "a record whose time is over could be deleted")
    answer = await store.put(keys[2], b"new", expect=versions[2], keep=60.0)
    require(isinstance(answer, Conflict), "a record whose time is over still has its version")
    answer = await store.put(keys[3], b"new", expect=ABSENT, keep=60.0)
    require(not isinstance(answer, Conflict), "a record whose time is over stands in the way of a new one")


@check(STORE_CHECKS, "C23", "C18", store=True)
async def each_write_sets_a_new_expiry(harness: Harness) -> None:
    """The last write decides when a record expires: later, earlier, or never."""
    store, keep = await harness.store(), 0.4
    longer, forever, shorter = harness.name("longer"), harness.name("forever"), harness.name("shorter")
    for key, first, second in ((longer, keep, 60.0), (forever, keep, None), (shorter, 60.0, keep)):
        await _put(store, key, b"1", keep=first)
        await _put(store, key, b"2", keep=second)
    await harness.outlast(keep)
    require(await _value(store, longer) == b"2", "a record ended at the time of an earlier write")
    require(await _value(store, forever) == b"2", "a record without end has ended")
    require(await store.get(shorter) is None, "a record lives on after the time of its last write")


@check(STORE_CHECKS, "C8", "C10", store=True)
async def a_batch_of_writes_is_answered_in_order(harness: Harness) -> None:
    """Each write of a batch succeeds or fails by its own expectation, and is answered in its place."""
    store = await harness.store()
    here, gone, taken, old, new = (harness.name(name) for name in ("here", "gone", "taken", "old", "new"))
    version, stale = await _put(store, here, b"1"), await _put(store, old, b"1")
    await _put(store, taken, b"1")
    await _put(store, old, b"2")
    answers = await store.put_many(
        [
            Write(key=here, value=b"2", expect=version, keep=60.0),
            Write(key=gone, value=None),
            Write(key=taken, value=b"2", expect=ABSENT, keep=60.0),
            Write(key=old, value=None, expect=stale),
            Write(key=new, value=b"1", expect=ABSENT, keep=60.0),
            Write(key=taken, value=None, expect=ANY),
        ]
    )
    done = [not isinstance(answer, Conflict) for answer in answers]
    require(done == [True, True, False, False, True, True], f"six writes, of which two had to fail, were done: {done}")
    require(answers[1] == "", f"deleting what is not there was answered with {answers[1]!r}")
    values = [await _value(store, key) for key in (here, gone, taken, old, new)]
    require(values == [b"2", None, None, b"2", b"1"], f"after the batch the records are {values}")
    require(not list(await store.put_many([])), "an empty batch was answered with something")


@check(STORE_CHECKS, "C4", store=True)
async def a_watch_yields_the_record_and_each_change(harness: Harness) -> None:
    """A watch yields the current record, then newer ones up to the latest, whichever client wrote them."""
    store, other, key = await harness.store(), await harness.store(), harness.name("watched")
    seen: list[bytes] = []

    async def read_until(last: bytes) -> None:
        with anyio.move_on_after(harness.timeout):
            async for record in records:
                seen.append(record.value)
                if record.value == last:
                    return

    await _put(other, key, b"before")
    async with store.watch(key) as records:
        await read_until(b"before")
        async with anyio.create_task_group() as group:
            group.start_soon(read_until, b"9")
            for number in range(10):
                await _put(other, key, b"%d" % number)
    require(seen[:1] == [b"before"], "a watch did not begin with the record that was there")
    require(seen[-1:] == [b"9"], f"a watch never came to the latest record; it saw {seen}")
    require(seen[1:] == sorted(set(seen[1:])), f"a watch went back or repeated itself: {seen}")


@check(STORE_CHECKS, "C4", "C22", store=True)
async def a_watch_misses_no_write_after_its_start(harness: Harness) -> None:
    """A watch sees every write to its key that follows its entry, and no write to another key."""
    store, other = await harness.store(), await harness.store()
    for number in range(5):
        key, neighbour = harness.name(f"soon{number}"), harness.name(f"soon{number}0")
        found: bytes | None = None
        async with store.watch(key) as records:
            await _put(other, neighbour, b"wrong key")
            await _put(other, key, b"written")
            with anyio.move_on_after(harness.timeout):
                async for record in records:
                    found = record.value
                    break
        require(found == b"written", f"a watch saw {found!r} instead of what was written after it was entered")
