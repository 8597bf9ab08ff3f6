"""FlakyBackend and FlakyStore: any broker and any store, with faults on command.

    flaky = FlakyBackend(backend)                       opening it opens the backend
    app = App(flaky, store=FlakyStore(store))           or harness.app(around=FlakyBackend, around_store=FlakyStore)
    flaky.next("publish", Fail())                       the next publish fails, nothing is stored
    flaky.always("settle", DropReply())                 verdicts are carried out, but the caller gets no reply
    flaky.play("receive", [None, Delay(2.0), Fail()])   the first goes well, the second is slow, the third fails
    flaky.partition()                                   unreachable, for every verb
    flaky.heal()                                        all is well again; hanging calls end
    assert flaky.calls["settle"] == 3

    verbs of a backend   connect publish receive settle extend admin (one of them: "admin.remove")
    verbs of a store     connect get get_many put delete put_many watch

Faults keep to the contract of the seams, as an honest adapter would: a dropped reply to ``publish`` is answered
Uncertain, to the other verbs it is BrokerUnavailable. ``DropReply("raise")`` breaks the contract of ``publish``.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, Self, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from taskcore.backend import Admin, Backend, Delivery, Features, Outgoing, Published, Source, Uncertain
from taskcore.errors import BrokerUnavailable
from taskcore.faults.flaky_admin import FlakyAdmin
from taskcore.lifecycle import Verdict
from taskcore.store import Conflict, Expect, Record, Store, Version, Write

__all__ = ["Delay", "DropReply", "Fail", "Fault", "Faults", "FlakyBackend", "FlakyStore", "Hang", "Reorder", "Twice"]

T = TypeVar("T")
Item = TypeVar("Item")

#: A verb as the wrappers hand it over: a batch in, an answer out.
Do: TypeAlias = Callable[[Sequence[Item]], Awaitable[T]]


# ── faults ───────────────────────────────────────────────────────────────────────────────────────


class Fail(msgspec.Struct, frozen=True):
    """Nothing is done, and BrokerUnavailable says so. ``error`` raises something else instead."""

    error: BaseException | None = None


class Hang(msgspec.Struct, frozen=True):
    """Nothing is done and nothing is answered, until ``heal``; then BrokerUnavailable."""


class Delay(msgspec.Struct, frozen=True):
    """It is done after so many seconds."""

    seconds: float


class DropReply(msgspec.Struct, frozen=True):
    """The call is carried out, and its reply is lost.

    :param how: ``"honest"``: Uncertain for publish, BrokerUnavailable for the rest; ``"raise"``: BrokerUnavailable
        always; ``"hang"``: no answer until ``heal``, then as honest.
    """

    how: Literal["honest", "raise", "hang"] = "honest"


class Twice(msgspec.Struct, frozen=True):
    """It is done twice, as after a repeated request; the first answer counts."""


class Reorder(msgspec.Struct, frozen=True):
    """The batch is done from its end to its beginning; answers are in the caller's order. Deliveries come reversed."""


Fault: TypeAlias = Fail | Hang | Delay | DropReply | Twice | Reorder


class Faults:
    """What goes wrong next, and how often each verb was called.

    A verb meets the next fault that is planned for it, else the one that is always there for it, else none.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()  #: tries by verb, failed ones included
        self.partitioned = False
        self._planned: defaultdict[str, deque[Fault | None]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._healed = anyio.Event()
        self._waiting: set[anyio.CancelScope] = set()

    # ── commands ──

    def next(self, verb: str, fault: Fault, *, times: int = 1) -> None:
        """Plan this fault for the next call of the verb, or the next so many."""
        self._planned[verb].extend([fault] * times)

    def play(self, verb: str, script: Iterable[Fault | None]) -> None:
        """Plan these faults for the next calls of the verb, one each; None is a call that goes well."""
        self._planned[verb].extend(script)

    def always(self, verb: str, fault: Fault) -> None:
        """Plan this fault for every call of the verb from now on, except where something else is planned."""
        self._always[verb] = fault

    def partition(self) -> None:
        """Cut the connection: every verb fails, and so does each call that waits for deliveries or changes."""
        self.partitioned = True
        for scope in tuple(self._waiting):
            scope.cancel()

    def heal(self) -> None:
        """End all faults: nothing is planned any more, and calls that hang end with BrokerUnavailable."""
        self.partitioned = False
        self._planned.clear()
        self._always.clear()
        self._healed.set()
        self._healed = anyio.Event()

    # ── what the wrappers ask ──

    async def around(
        self,
        verb: str,
        batch: Sequence[Item],
        do: Do[Item, T],
        *,
        unsure: Callable[[Sequence[Item]], T] | None = None,
        reorder: Callable[[T], T] = lambda answer: answer,
    ) -> T:
        """Carry a verb out, or whatever the fault makes of it.

        :param unsure: the answer when the outcome is unknown; None: BrokerUnavailable.
        :param reorder: brings an answer into the opposite order.
        """
        fault = self._meet(verb)
        match fault:
            case None:
                return await do(batch)
            case Fail(error=error):
                await anyio.lowlevel.checkpoint()
                raise error if error is not None else _broker_gone(verb)
            case Hang():
                await self._healed.wait()
                raise _broker_gone(verb)
            case Delay(seconds=seconds):
                await anyio.sleep(seconds)
                return await do(batch)
            case DropReply(how=how):
                await do(batch)
                if how == "hang":
                    await self._healed.wait()
                if how == "raise" or unsure is None:
                    raise _no_reply(verb)
                return unsure(batch)
            case Twice():
                first = await do(batch)
                await do(batch)
                return first
            case Reorder():
                return reorder(await do(batch[::-1]))

    async def unless_cut(self, verb: str, wait: Callable[[], Awaitable[T]]) -> T:
        """Wait for something that a partition ends at once, as a lost connection would."""
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                return await wait()
            finally:
                self._waiting.discard(scope)
        raise _broker_gone(verb)

    def _meet(self, verb: str) -> Fault | None:
        general = verb.partition(".")[0]
        names = list(dict.fromkeys((verb, general)))  # "admin.remove" and "admin", the exact one first
        self.calls.update(names)
        if self.partitioned:
            return Fail()
        for name in names:
            if self._planned[name]:
                return self._planned[name].popleft()
        return next((self._always[name] for name in names if name in self._always), None)


def _broker_gone(verb: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"{verb}: unreachable", facts=["a fault of the test kit"])


def _no_reply(verb: str) -> BrokerUnavailable:
    return BrokerUnavailable(f"{verb}: the reply was lost", facts=["a fault of the test kit"])


# ── the backend ──────────────────────────────────────────────────────────────────────────────────


class FlakyBackend(Faults):
    """A connection to a broker that fails on command; others to the same broker are not touched."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend

    @property
    def features(self) -> Features:
        """See :class:`taskcore.backend.Backend`."""
        return self._backend.features

    @property
    def admin(self) -> Admin:
        """See :class:`taskcore.backend.Backend`."""
        return FlakyAdmin(self._backend.admin, self)

    async def __aenter__(self) -> Self:
        await self.around("connect", (), lambda _: self._backend.__aenter__())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._backend.__aexit__(*exc)

    async def publish(self, batch: Sequence[Outgoing]) -> Sequence[Published]:
        """See :class:`taskcore.backend.Backend`."""
        return await self.around("publish", batch, self._backend.publish, unsure=_all_uncertain, reorder=_reversed)

    def consume(self, queues: Sequence[str], *, lease: float) -> AbstractAsyncContextManager[Source]:
        """See :class:`taskcore.backend.Backend`."""
        return self._consuming(self._backend.consume(queues, lease=lease))

    @asynccontextmanager
    async def _consuming(self, context: AbstractAsyncContextManager[Source]) -> AsyncIterator[Source]:
        async with context as source:
            yield _FlakySource(source, self)


class _FlakySource:
    """A source with its backend's faults. Lost leases have no order, so reordering changes nothing in the answers."""

    def __init__(self, source: Source, faults: Faults) -> None:
        self._source = source
        self._faults = faults

    async def receive(self, limit: int) -> Sequence[Delivery]:
        async def receive(_: Sequence[Any]) -> Sequence[Delivery]:
            return await self._faults.unless_cut("receive", lambda: self._source.receive(limit))

        return await self._faults.around("receive", (), receive, reorder=_reversed)

    async def settle(self, batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
        return await self._faults.around("settle", batch, self._source.settle)

    async def extend(self, batch: Sequence[Delivery]) -> Sequence[Delivery]:
        return await self._faults.around("extend", batch, self._source.extend)


def _all_uncertain(batch: Sequence[Outgoing]) -> Sequence[Published]:
    return [Uncertain("the reply was lost") for _ in batch]


def _reversed(answers: Sequence[Item]) -> Sequence[Item]:
    return answers[::-1]


# ── the store ────────────────────────────────────────────────────────────────────────────────────


class FlakyStore(Faults):
    """A connection to a store that fails on command."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    async def __aenter__(self) -> Self:
        await self.around("connect", (), lambda _: self._store.__aenter__())
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._store.__aexit__(*exc)

    async def get(self, key: str) -> Record | None:
        """See :class:`taskcore.store.Store`."""
        return await self.around("get", (), lambda _: self._store.get(key))

    async def get_many(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """See :class:`taskcore.store.Store`."""
        return await self.around("get_many", keys, self._store.get_many, reorder=_reversed)

    async def put(self, key: str, value: bytes, *, expect: Expect, keep: float | None) -> Version | Conflict:
        """See :class:`taskcore.store.Store`."""
        return await self.around("put", (), lambda _: self._store.put(key, value, expect=expect, keep=keep))

    async def delete(self, key: str, *, expect: Expect) -> bool:
        """See :class:`taskcore.store.Store`."""
        return await self.around("delete", (), lambda _: self._store.delete(key, expect=expect))

    async def put_many(self, writes: Sequence[Write]) -> Sequence[Version | Conflict]:
        """See :class:`taskcore.store.Store`."""
        return await self.around("put_many", writes, self._store.put_many, reorder=_reversed)

    def watch(self, key: str) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
        """See :class:`taskcore.store.Store`. Faults are met when it begins, a partition ends it at any time."""
        return self._watching(key)

    @asynccontextmanager
    async def _watching(self, key: str) -> AsyncIterator[AsyncIterator[Record]]:
        context = self._store.watch(key)
        records = await self.around("watch", (), lambda _: context.__aenter__())
        try:
            yield _FlakyRecords(records, self)
        finally:
            await context.__aexit__(None, None, None)


class _FlakyRecords:
    """News from a watch, until a partition."""

    def __init__(self, records: AsyncIterator[Record], faults: Faults) -> None:
        self._records = records
        self._faults = faults

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        return await self._faults.unless_cut("watch", lambda: anext(self._records))
