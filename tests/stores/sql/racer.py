# ruff: noqa: T201 - the test reads what it prints
"""A child of the tests: one of several processes that write the same records.

python racer.py <url> race <name> <rounds>      counts a record up by compare-and-set; prints how often it won
python racer.py <url> flood                     writes for ever, a transaction after the other; prints what is confirmed
python racer.py <url> begin                     dies inside of a transaction, on a line of input
"""

from __future__ import annotations

import sqlite3
import sys
import time

import anyio

from taskcore.adapters import open_store
from taskcore.store import ABSENT, ANY, Conflict, Write


async def race(url: str, name: str, rounds: int) -> None:
    """Win as often as possible; after a lost race read again."""
    won = 0
    async with open_store(url) as store:
        print("ready", flush=True)
        while won < rounds:
            record = await store.get("counter")
            expect = ABSENT if record is None else record.version
            value = b"0" if record is None else record.value
            answer = await store.put("counter", b"%d" % (int(value) + 1), expect=expect, keep=60.0)
            won += not isinstance(answer, Conflict)
    print("won", name, won, flush=True)


async def flood(url: str) -> None:
    """Write two records in each batch, always with the same number."""
    async with open_store(url) as store:
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            value = b"%d" % number
            await store.put_many([Write(key=key, value=value, expect=ANY, keep=60.0) for key in ("left", "right")])
            print("confirmed", number, flush=True)


def begin(path: str) -> None:
    """Write, and never commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE taskcore_records SET value = x'00'")
    print("ready", flush=True)
    time.sleep(60)


if sys.argv[2] == "race":
    anyio.run(race, sys.argv[1], sys.argv[3], int(sys.argv[4]))
elif sys.argv[2] == "flood":
    anyio.run(flood, sys.argv[1])
else:
    begin(sys.argv[1].removeprefix("sqlite:///"))
