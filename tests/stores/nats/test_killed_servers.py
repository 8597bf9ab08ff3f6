"""What a store on NATS keeps, and what stays deleted, when the server is killed."""

from __future__ import annotations

import random

import anyio
import pytest

from taskcore import BrokerUnavailable
from taskcore.adapters import open_store
from taskcore.faults import NatsServer
from taskcore.store import ABSENT, ANY, Store, Version
from tests.support.real import require

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

VERSIONS = ("", "2.12", "2.11", "2.10", "2.9")
KEYS = 12
KILLS = 3


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio: the store knows nothing else."""
    return "asyncio"


async def patiently(store: Store, key: str) -> bytes | None:
    """Read a record as soon as the server answers again."""
    with anyio.fail_after(20):
        while True:
            try:
                record = await store.get(key)
            except BrokerUnavailable:
                await anyio.sleep(0.1)
            else:
                return None if record is None else record.value


async def write(store: Store, key: str, times: int, *, blindly: bool) -> Version:
    """Write a record so often; blindly, or each time over the version before."""
    expect: Version | object = ABSENT
    for number in range(times):
        answer = await store.put(key, b"%d" % number, expect=ANY if blindly else expect, keep=600)  # type: ignore[arg-type]
        assert isinstance(answer, str)
        expect = answer
    return str(expect)


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version or "newest")
async def test_a_deleted_record_stays_deleted_when_the_server_is_killed(version: str) -> None:
    """Neither a record nor its earlier versions come back, however they were written and deleted; others are kept."""
    async with require(NatsServer, version)(version=version) as server, open_store(server.url) as store:
        expected: dict[str, bytes | None] = {}
        for kill in range(KILLS):
            for number in range(KEYS):
                key = f"{kill}/{number}"
                times, blindly = 1 + number % 3, number % 2 == 0
                last = await write(store, key, times, blindly=blindly)
                expected[key] = b"%d" % (times - 1)
                if number % 4 < 3:
                    assert await store.delete(key, expect=ANY if random.random() < 0.5 else last)
                    expected[key] = None
            await anyio.sleep(3.5)  # a mark of a deleted record has gone, too
            server.kill()
            await server.restart()
            assert {key: await patiently(store, key) for key in expected} == expected


async def test_no_version_is_left() -> None:
    """Versions that were written over and marks of deleted records are removed in the background, and at the end."""
    async with require(NatsServer)() as server:
        async with open_store(server.url) as store:
            for number in range(KEYS):
                last = await write(store, f"{number}", 1 + number % 4, blindly=False)
                if number % 2:
                    assert await store.delete(f"{number}", expect=last)
        async with open_store(server.url) as store:
            diagnosis = await store.diagnose()  # type: ignore[attr-defined]
            [records] = [check for check in diagnosis.checks if check.name == "records"]
            assert records.text.startswith(f"{KEYS // 2},")
