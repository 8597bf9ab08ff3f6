"""A store is a compare-and-set register for each key: concurrent histories are checked by brute force.

Hypothesis draws what three clients do to one key at the same time, each on a connection of its own. Afterwards some
order of all the calls has to exist that respects real time, and in which each answer is what a plain variable gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, NamedTuple

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskcore.store import ABSENT, ANY, Conflict, Record, Store, Version, Write
from taskcore.stores.memory import MemoryStore
from taskcore.stores.sql import PostgresStore, SqliteStore

pytestmark = pytest.mark.timeout(120)

#: What a client does: "cas" and "drop" expect the version that it saw last.
STEPS = st.sampled_from(["get", "put", "first", "first", "cas", "cas", "delete", "drop", "put many"])
CLIENTS = st.lists(st.lists(STEPS, min_size=1, max_size=4), min_size=2, max_size=3)
FEW_EXAMPLES = settings(
    max_examples=40, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


class Call(NamedTuple):
    """One call and its answer; ``began`` and ``ended`` say which calls came before which."""

    what: str
    value: bytes
    expect: Any
    answer: Any
    began: int
    ended: int


class State(NamedTuple):
    """A plain variable, and the versions that it has had."""

    record: Record | None
    used: frozenset[Version]


BEGINNING = State(None, frozenset())


def after(state: State, call: Call) -> State | None:
    """Return the state behind this call, if its answer is right for the state before it."""
    record = state.record
    if call.what == "get":
        return state if call.answer == record else None
    fits = call.expect is ANY or (call.expect is ABSENT and record is None)
    fits = fits or (record is not None and record.version == call.expect)
    if isinstance(call.answer, Conflict):
        return state if not fits and call.answer.current == record else None
    if not fits:
        return None
    if call.what == "delete":
        right = call.answer == ("" if record is None else record.version)
        return State(None, state.used) if right else None
    if call.answer in state.used:
        return None
    return State(Record(call.value, call.answer), state.used | {call.answer})


def can_be_explained(calls: Sequence[Call], state: State = BEGINNING) -> bool:
    """Tell whether some order of the calls explains every answer."""
    if not calls:
        return True
    first_end = min(call.ended for call in calls)
    for index, call in enumerate(calls):
        if call.began <= first_end:
            following = after(state, call)
            if following is not None and can_be_explained([*calls[:index], *calls[index + 1 :]], following):
                return True
    return False


async def play(stores: Sequence[Store], key: str, plans: Sequence[Sequence[str]]) -> list[Call]:
    """Run the clients and return their calls with the answers."""
    clock, values, calls = count(), count(), list[Call]()

    async def client(store: Store, plan: Sequence[str]) -> None:
        seen: Any = "nothing yet"
        for step in plan:
            await anyio.lowlevel.checkpoint()
            began, value = next(clock), b"%d" % next(values)
            expect = {"first": ABSENT, "cas": seen, "drop": seen}.get(step, ANY)
            what = {"get": "get", "delete": "delete", "drop": "delete"}.get(step, "put")
            if what == "get":
                answer: Any = await store.get(key)
                seen = answer.version if answer else seen
            elif what == "delete" or step == "put many":
                [answer] = await store.put_many(
                    [Write(key=key, value=None if what == "delete" else value, expect=expect)]
                )
            else:
                answer = await store.put(key, value, expect=expect, keep=60.0)
            if what == "put":
                seen = (
                    answer if not isinstance(answer, Conflict) else answer.current.version if answer.current else seen
                )
            calls.append(Call(what, value, expect, answer, began, next(clock)))

    async with anyio.create_task_group() as group:
        for store, plan in zip(stores, plans, strict=False):
            group.start_soon(client, store, plan)
    return calls


keys = count()


@given(CLIENTS)
@FEW_EXAMPLES
def test_memory(plans: Any):
    """The in-memory store behaves as a register."""
    store = MemoryStore()

    async def scenario() -> list[Call]:
        return await play([store] * 3, "k", plans)

    assert can_be_explained(anyio.run(scenario))


def test_sqlite(tmp_path: Any):
    """Three stores on one file, so three writers that take turns by its lock."""

    @given(CLIENTS)
    @FEW_EXAMPLES
    def holds(plans: Any) -> None:
        key = f"k{next(keys)}"

        async def scenario() -> list[Call]:
            async with AsyncExitStack() as exits:
                url = f"sqlite:///{tmp_path}/r.db"
                return await play([await exits.enter_async_context(SqliteStore(url)) for _ in range(3)], key, plans)

        calls = anyio.run(scenario)
        assert can_be_explained(calls), "\n".join(map(str, calls))

    holds()


def test_postgres(postgres: Any):
    """Three stores, so three sessions of the server."""

    @given(CLIENTS)
    @FEW_EXAMPLES
    def holds(plans: Any) -> None:
        key = f"register/{next(keys)}"

        async def scenario() -> list[Call]:
            async with AsyncExitStack() as exits:
                stores = [await exits.enter_async_context(PostgresStore(postgres.url)) for _ in range(3)]
                calls = await play(stores, key, plans)
                await stores[0].delete(key, expect=ANY)
                return calls

        calls = anyio.run(scenario)
        assert can_be_explained(calls), "\n".join(map(str, calls))

    holds()


class Hasty(MemoryStore):
    """Compares, lets others in, sets."""

    async def put(self, key: str, value: bytes, *, expect: Any, keep: float | None) -> Any:
        """Write, in two steps."""
        record = await self.get(key)
        if expect is ABSENT and record is not None:
            return Conflict(record)
        if expect is not ABSENT and expect is not ANY and (record is None or record.version != expect):
            return Conflict(record)
        await anyio.lowlevel.checkpoint()
        return await super().put(key, value, expect=ANY, keep=keep)


class Forgetful(MemoryStore):
    """Tells a conflict without saying what is there."""

    async def put(self, key: str, value: bytes, *, expect: Any, keep: float | None) -> Any:
        """Write, but hide what a conflict found."""
        answer = await super().put(key, value, expect=expect, keep=keep)
        return Conflict(None) if isinstance(answer, Conflict) else answer


@pytest.mark.parametrize("kind", [Hasty, Forgetful])
def test_a_broken_register_is_noticed(kind: Any):
    """A check that cannot fail proves nothing."""

    @given(CLIENTS)
    @FEW_EXAMPLES
    def holds(plans: Any) -> None:
        store = kind()

        async def scenario() -> list[Call]:
            return await play([store] * 3, "k", plans)

        assert can_be_explained(anyio.run(scenario))

    with pytest.raises(AssertionError):
        holds()
