"""Foreign values under the names of our records, written past the store; and the rules that hold in spite of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import nats
import psycopg
from nats.js.errors import NotFoundError

from taskcore import App, Retry
from taskcore.deadletter import DeadLetter
from taskcore.errors import UnreadableRecord
from taskcore.faults.resp import command
from taskcore.records.names import cancel_name, key_name, outcome_name, start_name
from taskcore.store import ANY
from taskcore.stores.memory import MemoryStore
from taskcore.stores.nats.layout import key_token
from taskcore.stores.redis.layout import VERSION, RecordNames
from taskcore.worker.context import current

#: Writes a foreign value under the name of a record; the value is one of those that the store knows.
Plant: TypeAlias = Callable[[str, Any], Awaitable[None]]
#: Reads back what is there, as the server has it.
Look: TypeAlias = Callable[[str], Awaitable[Any]]

KINDS = ("outcome", "outcome before a retry", "start marker", "cancel", "key")

HUGE = b"x" * 900_000
TRUNCATED = b'{"state":"succeeded","result":{"a":'
PLAIN: Mapping[str, bytes] = {
    "garbage": b"garbage",
    "empty": b"",
    "truncated": TRUNCATED,
    "not UTF-8": b'{"state":"\xff\xfe"}',
    "another type": b"[1,2,3]",
    "a number": b"17.5e3",
    "another version": b'{"v":9,"state":{"is":"done"},"job":17}',
    "huge": HUGE,
    "deep": b"[" * 100_000,
}


async def end_jobs(app: App, kinds: Sequence[str], values: Sequence[Any], plant: Plant, look: Look) -> None:
    """Run jobs whose records are foreign beside others; each rule about them is asserted."""

    @app.task(name="t.plain", queue="foreign")
    async def plain(n: int) -> int:
        return n

    @app.task(name="t.keyed", queue="foreign", key="n")
    async def keyed(n: int) -> int:
        return n

    @app.task(name="t.twice", queue="foreign", retry=Retry(attempts=3, base=0.01, jitter="none"))
    async def twice(n: int) -> int:
        if current().attempt == 1:
            raise ConnectionError("once more")
        return n

    async with app:
        planted: dict[str, Any] = {}
        told: list[Callable[[], Awaitable[object]]] = []
        for number, (kind, value) in enumerate(zip(kinds, values, strict=True)):
            if kind == "key":
                await keyed.enqueue(number)
                name = key_name("t.keyed", str(number))
                told.append(lambda number=number: keyed.enqueue(number))
            else:
                job = await (plain if kind == "outcome" else twice).enqueue(number)
                name = {"start marker": start_name(job.id, 1), "cancel": cancel_name(job.id)}.get(
                    kind, outcome_name(job.id)
                )
                if kind.startswith("outcome"):
                    told += [job.status, lambda job=job: job.outcome(timeout=5), lambda job=job: job.result(timeout=5)]
            await plant(name, value)
            planted[name] = await look(name)
        neighbours = [await plain.enqueue(n) for n in range(5)] + [await twice.enqueue(5), await keyed.enqueue(1_000)]
        async with app.running(queues=["foreign"], grace=1.0):
            for job in neighbours:
                await job.result(timeout=30)
            letters = await _letters(app, len(planted))
        async with app.running(queues=["foreign"], grace=1.0):  # another worker finds nothing left to do
            assert await (await plain.enqueue(6)).result(timeout=30) == 6
        assert len(letters) == len(await _letters(app, 0)) == len(planted)
        for letter in letters:
            assert "record" in letter.reason or "cannot be read" in letter.reason, letter.reason
        for name, before in planted.items():
            assert await look(name) == before, f"{name} was changed"
        for ask in told:
            try:
                answer = await ask()
            except UnreadableRecord:
                continue
            raise AssertionError(f"a caller was answered with {answer!r}")


async def _letters(app: App, count: int) -> list[DeadLetter]:
    """Read the dead letters, as soon as there are so many."""
    with anyio.fail_after(30):
        while True:
            letters = [letter async for letter in app.dead_letters.read("foreign")]
            if len(letters) >= count:
                return letters
            await anyio.sleep(0.02)


# ── one pair of functions for each store ─────────────────────────────────────────────────────────


def in_memory(store: MemoryStore) -> tuple[Plant, Look]:
    """Write records of a store in this process."""

    async def plant(name: str, value: bytes) -> None:
        await store.put(name, value, expect=ANY, keep=None)

    async def look(name: str) -> Any:
        record = await store.get(name)
        return record and record.value

    return plant, look


#: Commands that write something else than a record of ours.
REDIS: Mapping[str, tuple[Any, ...]] = {
    "list": ("RPUSH", "x"),
    "hash": ("HSET", "a", "b"),
    "set": ("SADD", "x"),
    "sorted set": ("ZADD", 1, "x"),
    "stream": ("XADD", "*", "a", "b"),
    "bitmap": ("SETBIT", 7, 1),
    **{name: ("SET", value) for name, value in PLAIN.items()},
    **{f"version, {name}": ("SET", b"Zm9vYmFyYmF.1f " + value) for name, value in PLAIN.items()},
    "version only": ("SET", b"Zm9vYmFyYmF.1f"),
}


def in_redis(port: int) -> tuple[Plant, Look]:
    """Write keys of a Redis."""
    names = RecordNames("tc")

    async def plant(name: str, value: tuple[Any, ...]) -> None:
        await command(port, "DEL", names(name))
        await command(port, value[0], names(name), *value[1:])

    async def look(name: str) -> Any:
        if await command(port, "TYPE", names(name)) != b"string":
            return await command(port, "DUMP", names(name))
        return VERSION.sub(b"", await command(port, "GET", names(name)), count=1)  # an outcome is accepted as it is

    return plant, look


#: Headers and the body of a message.
NATS: Mapping[str, tuple[bytes, bytes]] = {
    **{name: (b"", value) for name, value in PLAIN.items()},
    "end is not a number": (b"NATS/1.0\r\nTc-Ends: soon\r\n\r\n", b"garbage"),
    "end is too large": (b"NATS/1.0\r\nTc-Ends: 99999999999999999999999\r\n\r\n", b"garbage"),
    "number of another message": (b"NATS/1.0\r\nNats-Sequence: 1\r\nNats-Stream: x\r\n\r\n", b"garbage"),
    "status of an absent message": (b"NATS/1.0 404 Message Not Found\r\n\r\n", b"garbage"),
    "status of an absent server": (b"NATS/1.0 503\r\n\r\n", b"garbage"),
    "no headers": (b"garbage\r\n\r\n", b"garbage"),
    "headers not UTF-8": (b"NATS/1.0\r\n\xff\xfe: \xff\r\n\r\n", b"garbage"),
}


def in_nats(url: str) -> tuple[Plant, Look]:
    """Write messages of a stream."""

    async def plant(name: str, value: tuple[bytes, bytes]) -> None:
        connection = await nats.connect(url)
        subject, (headers, body) = f"taskcore.r.{key_token(name)}", value
        size = len(headers) + len(body)
        verb = f"HPUB {subject} {len(headers)} {size}" if headers else f"PUB {subject} {size}"
        connection._transport.write(verb.encode() + b"\r\n" + headers + body + b"\r\n")
        await connection._transport.drain()
        await connection.flush()
        with anyio.fail_after(30):  # a stream stores what the server has read, but later
            while True:
                found = await last(connection, name)
                if found and (found.data or b"") == body:
                    break
                await anyio.sleep(0.02)
        await connection.close()

    async def look(name: str) -> Any:
        connection = await nats.connect(url)
        found = await last(connection, name)
        await connection.close()
        return found and found.data

    async def last(connection: nats.NATS, name: str) -> Any:
        with suppress(NotFoundError):
            return await connection.jetstream().get_last_msg("taskcore-store", f"taskcore.r.{key_token(name)}")

    return plant, look


#: An SQL expression for the value, and its parameter.
SQL: Mapping[str, tuple[str, Any]] = {name: ("?", value) for name, value in PLAIN.items()}
SQLITE: Mapping[str, tuple[str, Any]] = {
    **SQL,
    "text": ("?", "garbage"),
    "real": ("?", 1.5),
    "text that is not UTF-8": ("CAST(? AS TEXT)", b"\xff\xfe{"),
    "text with a NUL": ("?", "gar\0bage"),
}


def in_sqlite(path: Path, *, version: Any = 7, ends: Any = None) -> tuple[Plant, Look]:
    """Write rows of a file."""

    async def plant(name: str, value: tuple[str, Any]) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO taskcore_records VALUES (?, {value[0]}, ?, ?)",
                (name, value[1], version, ends),
            )
        connection.close()

    async def look(name: str) -> Any:
        with sqlite3.connect(path) as connection:
            query = "SELECT CAST(value AS BLOB) FROM taskcore_records WHERE key = ?"
            found = connection.execute(query, (name,)).fetchone()
        connection.close()
        return found

    return plant, look


def in_postgres(url: str) -> tuple[Plant, Look]:
    """Write rows of a table."""

    async def plant(name: str, value: tuple[str, Any]) -> None:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(
                "INSERT INTO taskcore_records VALUES (%s, %s, -1, 'infinity') ON CONFLICT (key) "
                "DO UPDATE SET value = excluded.value, version = -1, ends = 'infinity'",
                (name, value[1]),
            )

    async def look(name: str) -> Any:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            found = await connection.execute("SELECT value FROM taskcore_records WHERE key = %s", (name,))
            return await found.fetchone()

    return plant, look
