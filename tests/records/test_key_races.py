"""Any interleaving of holders of one key commits at most one outcome; played through, not hoped for."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskcore.records.keys import Acquired, Busy, Completed, IdempotencyKeys, KeyRecord, decode_key_record
from taskcore.store import Conflict
from taskcore.stores.memory import MemoryStore
from tests.support.virtual import options

NAME, WINDOW, HOLD = "key/t/1", 1000.0, 60.0


class Holder:
    """One worker that has a job with the key; it may stop at any point and never go on."""

    def __init__(self, keys: IdempotencyKeys, store: MemoryStore, name: str, job: str) -> None:
        self.keys, self.store, self.name = keys, store, name
        self.claim = KeyRecord(key="k", job=job, args="same")
        self.won: Acquired | None = None

    async def step(self, what: str, now: float) -> str | None:
        """Take one step; return the outcome, if this step committed one or learnt it."""
        if what == "take" and self.won is None:
            taken: Any = await self.keys.acquire(NAME, self.claim, lease=HOLD, now=now, keep=WINDOW)
            if isinstance(taken, Completed):
                return taken.outcome.decode()
            self.won = None if isinstance(taken, Busy) else taken
        elif self.won is not None and what in ("complete", "give back", "prolong"):
            won, self.won = self.won, None
            if what == "complete":
                if not await self._write(IdempotencyKeys.complete(won, f'"{self.name}"'.encode())):
                    return f'"{self.name}"'
            elif what == "give back":
                await self._write(IdempotencyKeys.release(won))
            else:
                answer = (await self.store.put_many([IdempotencyKeys.renew(won, now + HOLD)]))[0]
                self.won = won
                if not isinstance(answer, Conflict):
                    won.version = answer
        elif what == "die":
            self.won = None
        return None

    async def _write(self, write: Any) -> bool:
        """Write; True if another writer came first."""
        return isinstance((await self.store.put_many([write]))[0], Conflict)


steps = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["take", "take", "complete", "give back", "prolong", "die"]),
        st.sampled_from([0.0, 1.0, 61.0]),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=200)
@given(steps=steps, same_job=st.booleans())
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_outcome(backend, steps, same_job):
    """Holders that take, prolong, give back, die and complete in any order agree on one outcome; fences only grow."""

    async def play() -> None:
        store = MemoryStore()
        keys = IdempotencyKeys(store)
        holders = [Holder(keys, store, f"h{n}", "j" if same_job else f"j{n}") for n in range(3)]
        outcomes, fences, now = set(), [0], 1.0
        for number, what, later in steps:
            now += later
            outcome = await holders[number].step(what, now)
            if outcome is not None:
                outcomes.add(outcome)
            record = await store.get(NAME)
            if record is not None:
                fences.append(decode_key_record(record.value).fence)

        assert len(outcomes) <= 1
        assert fences == sorted(fences)

    anyio.run(play, backend=backend, backend_options=options(backend))


@settings(deadline=None, max_examples=100)
@given(order=st.permutations([0, 0, 0, 1, 1, 1, 2, 2, 2]))
def test_a_live_holder_keeps_its_key(order):
    """As long as a holder is alive, no other job gets the key."""

    async def play() -> None:
        store = MemoryStore()
        keys = IdempotencyKeys(store)
        holders = [Holder(keys, store, f"h{n}", f"j{n}") for n in range(3)]
        for now, number in enumerate(order):
            await holders[number].step("take", float(now))
            assert sum(holder.won is not None for holder in holders) <= 1

    anyio.run(play)


async def takers(store: MemoryStore, jobs: int) -> list[Any]:
    """Let so many jobs take the key at the same time, with a switch between each read and write."""
    keys = IdempotencyKeys(store)
    taken: list[Any] = []

    async def take(number: int) -> None:
        claim = KeyRecord(key="k", job=f"j{number}", args="same")
        taken.append(await keys.acquire(NAME, claim, lease=HOLD, now=1.0, keep=WINDOW))

    async with anyio.create_task_group() as group:
        for number in range(jobs):
            group.start_soon(take, number)
    return taken


@pytest.mark.anyio
async def test_a_race_has_one_winner():
    """Of many jobs that take a key at once one holds it, and the others have to ask again."""

    class Slow(MemoryStore):
        async def get(self, key):
            record = await super().get(key)
            await anyio.lowlevel.checkpoint()
            return record

    taken = await takers(Slow(), 20)

    assert [type(each).__name__ for each in taken].count("Acquired") == 1
    assert [type(each).__name__ for each in taken].count("Busy") == 19
