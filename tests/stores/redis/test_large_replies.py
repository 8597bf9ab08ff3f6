"""Records that together, or alone, are larger than the server sends in one reply (``client-output-buffer-limit``)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from taskcore import UnreadableRecord
from taskcore.faults import RedisServer
from taskcore.faults.resp import command
from taskcore.store import ABSENT, ANY, Conflict, Write
from taskcore.stores.redis import RedisStore
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

KEYS = [f"record {number}" for number in range(40)]
MIDDLE, LARGE = b"m" * 30_000, b"l" * 400_000


@pytest.fixture
async def store() -> AsyncIterator[RedisStore]:
    """Open a store with many records and a large one, on a server that sends 256 KiB at most."""
    async with require(RedisServer)() as server, RedisStore(server.url) as store:
        await store.put_many([Write(key=key, value=MIDDLE) for key in KEYS])
        await store.put("large", LARGE, expect=ANY, keep=None)
        await command(server.port, "CONFIG", "SET", "client-output-buffer-limit", f"normal {256 * 1024} 0 0")
        yield store


async def test_many_records_are_read_in_parts(store: RedisStore) -> None:
    """Reads of a batch, and of callers that share one, are answered."""
    found = await store.get_many([*KEYS, "absent"])
    assert [one and one.value for one in found] == [*[MIDDLE] * len(KEYS), None]
    answers = dict[str, bytes]()

    async def read(key: str) -> None:
        one = await store.get(key)
        assert one is not None
        answers[key] = one.value

    async with anyio.create_task_group() as group:
        for key in KEYS:
            group.start_soon(read, key)
    assert answers == dict.fromkeys(KEYS, MIDDLE)


async def test_a_record_that_is_never_sent_is_an_error_of_its_own(store: RedisStore) -> None:
    """Its reader learns its size and the fix, in a watch too; readers beside it are answered."""
    wanted = (
        "the record 'large' has 400,0.. bytes, more than this Redis sends(.|\\n)*CONFIG SET client-output-buffer-limit"
    )
    values = list[bytes]()

    async def large() -> None:
        with pytest.raises(UnreadableRecord, match=wanted):
            await store.get("large")

    async def beside(key: str) -> None:
        one = await store.get(key)
        assert one is not None
        values.append(one.value)

    async with anyio.create_task_group() as group:
        for key in KEYS:
            group.start_soon(beside, key)
            group.start_soon(large)
    assert values == [MIDDLE] * len(KEYS)
    with pytest.raises(UnreadableRecord, match=wanted):
        async with store.watch("large") as watch:
            await anext(watch)


async def test_conflicts_tell_the_records_that_are_there(store: RedisStore) -> None:
    """Writes that find other records than they expect get these, however large they are together."""
    answers = await store.put_many([Write(key=key, value=b"new", expect=ABSENT) for key in [*KEYS, "new"]])
    assert [one.current and one.current.value for one in answers if isinstance(one, Conflict)] == [MIDDLE] * len(KEYS)
    assert not isinstance(answers[-1], Conflict)
    with pytest.raises(UnreadableRecord, match="the record 'large' has"):
        await store.put("large", b"new", expect=ABSENT, keep=None)
    assert not isinstance(await store.put("large", b"small", expect=ANY, keep=None), Conflict)
    found = await store.get("large")
    assert found is not None
    assert found.value == b"small"
