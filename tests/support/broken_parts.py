"""Dead letters, stores and workers that break one promise each: what the conformance suite has to notice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import anyio

from taskcore.backend import QueueStats
from taskcore.backends.letter_walks import PlainWalk
from taskcore.backends.memory.backend import MemoryAdmin, MemoryBackend
from taskcore.backends.memory.ledger import Ledger
from taskcore.client.keyed import KeyedSender
from taskcore.client.queries import JobQueries
from taskcore.contract import Contract
from taskcore.envelope import Trail
from taskcore.errors import BrokerUnavailable, InvalidArguments
from taskcore.lifecycle import CLAIM, Malformed
from taskcore.records.markers import StartMarkers
from taskcore.records.outcomes import Outcomes
from taskcore.store import ANY, Conflict
from taskcore.stores.memory import MemoryStore
from taskcore.toolkit.detached import Detached
from taskcore.worker import worker
from taskcore.worker.admission import Admission
from taskcore.worker.execution import STARTED_ACKED
from taskcore.worker.failures import Failures
from taskcore.worker.perform import Performer
from taskcore.worker.settle import Settler
from taskcore.worker.slots import Slots
from tests.support.broken import MUTANTS, change, mutant, numbers, wrapped

__all__ = ["MUTANTS"]


# ── admin and letters ────────────────────────────────────────────────────────────────────────────


def _admin(method: str, answer: Callable[..., Any]) -> Any:
    async def verb(original: Any, admin: MemoryAdmin, *args: Any, **kwargs: Any) -> Any:
        return answer(await original(admin, *args, **kwargs))

    return wrapped(MemoryAdmin, method, verb)


async def _never(*_: Any, **__: Any) -> Any:
    await anyio.sleep_forever()


async def _nothing(*_: Any, **__: Any) -> Any:
    return None


async def _purges_all(original: Any, admin: MemoryAdmin, queue: str) -> int:
    purged = await original(admin, queue)
    if queue in admin._ledger.queues:
        admin._ledger.queues[queue].letters.clear()
    return purged


async def _copies(original: Any, admin: MemoryAdmin, letter_id: str, job: Any) -> Any:
    """Publish under an id of its own on replay, and keep the letter."""
    return await original(admin, "0.none", change(job, id=f"{job.id}-{next(numbers)}"))


@asynccontextmanager
async def _loses_when_cut(original: Any, admin: MemoryAdmin, queue: str) -> AsyncIterator[Any]:
    async with original(admin, queue) as walk:
        try:
            yield walk
        except BaseException:
            admin._ledger.queues[queue].letters.clear()
            raise


async def _says_dropped(_: Any, __: Any, letters: Any) -> int:
    return len(letters)


def _takes(original: Any, ledger: Ledger, queue: str, *args: Any) -> Any:
    found = original(ledger, queue, *args)
    if queue in ledger.queues:
        ledger.queues[queue].ready.clear()
    return found


mutant(wrapped(MemoryAdmin, "walk", _loses_when_cut), name="loses letters of a pass that is cut")
mutant(wrapped(PlainWalk, "drop", _says_dropped), name="drops nothing in a pass")
mutant(wrapped(Ledger, "peek", _takes), name="takes what it shows")
_zeros = QueueStats(ready=0, leased=0, scheduled=0, dead=0)
mutant(_admin("remove", lambda _: True), name="always says removed")
mutant(_admin("remove", lambda _: False), name="always says not removed")
mutant(_admin("stats", lambda found: [_zeros] * len(found)), name="counts nothing")
mutant(
    _admin("stats", lambda found: [change(stats, ready=stats.ready + 1, oldest=7e9) for stats in found]),
    name="counts one more",
)
mutant(_admin("letters", lambda letters: list(reversed(letters))), name="turns letters around")
mutant(
    _admin("letters", lambda letters: [change(one, envelope=one.envelope.strip()) for one in letters]),
    name="alters dead letters",
)
mutant(_admin("drop", lambda _: True), name="always says dropped")
mutant(wrapped(MemoryAdmin, "drop", _nothing), name="does not drop")
mutant(wrapped(MemoryAdmin, "replay", _copies), name="replays copies")
mutant(wrapped(MemoryAdmin, "purge", _purges_all), name="purges dead letters")
mutant(wrapped(MemoryAdmin, "delete", _nothing), name="does not delete")
mutant(wrapped(MemoryAdmin, "stats", _never), name="never answers")
mutant(_admin("locate", lambda _: None), name="locates nothing")


# ── stores ───────────────────────────────────────────────────────────────────────────────────────


def _expects_nothing(original: Any, store: MemoryStore, key: str, value: Any, expect: Any, keep: Any, now: Any) -> Any:
    return original(store, key, value, ANY, keep, now)


def _truncates(original: Any, store: MemoryStore, key: str, value: Any, expect: Any, keep: Any, now: Any) -> Any:
    return original(store, key, value.strip(b"\x00"), expect, keep, now)


def _no_end(original: Any, store: MemoryStore, key: str, value: Any, expect: Any, keep: Any, now: Any) -> Any:
    return original(store, key, value, expect, None, now)


def _old_versions(original: Any, store: MemoryStore, key: str, value: Any, expect: Any, keep: Any, now: Any) -> Any:
    if store._find(key) is None:
        store._versions = count(1)
    return original(store, key, value, expect, keep, now)


def _hides_conflicts(original: Any, store: MemoryStore, *args: Any) -> Any:
    answer = original(store, *args)
    return 0 if isinstance(answer, Conflict) else answer


def _keeps_first_end(original: Any, store: MemoryStore, key: str, value: Any, expect: Any, keep: Any, now: Any) -> Any:
    before = store._records.get(key)
    answer = original(store, key, value, expect, keep, now)
    if before is not None and key in store._records:
        store._records[key] = store._records[key][0], before[1]
        store._ends.append((before[1], key, answer))
    return answer


async def _unordered(original: Any, store: MemoryStore, writes: Any) -> Any:
    return list(reversed(await original(store, writes)))


async def _lazy_put(original: Any, store: MemoryStore, key: str, value: bytes, **options: Any) -> Any:
    watches = store.watches
    store.watches = type(watches)(begin=lambda watch: store.get(watch.key), end=lambda _: None)
    try:
        return await original(store, key, value, **options)
    finally:
        store.watches = watches


async def _racy_put(original: Any, store: MemoryStore, key: str, value: bytes, *, expect: Any, keep: Any) -> Any:
    """Compare, then let others go first, then set."""
    record = await store.get(key)
    found = ANY if expect is ANY or (record.version if record else expect) == expect else expect
    await anyio.lowlevel.checkpoint()
    return await original(store, key, value, expect=found, keep=keep)


async def _outage_for_odd_names(original: Any, store: MemoryStore, key: str, value: bytes, **options: Any) -> Any:
    if "\0" in key:
        raise BrokerUnavailable("the store is away")
    return await original(store, key, value, **options)


mutant(wrapped(MemoryStore, "put", _outage_for_odd_names), name="store: takes a refusal for an outage")
mutant(wrapped(MemoryStore, "_write", _expects_nothing), name="store: compares nothing")
mutant(wrapped(MemoryStore, "_write", _truncates), name="store: strips values")
mutant(wrapped(MemoryStore, "_write", _no_end), name="store: keeps for ever")
mutant(wrapped(MemoryStore, "_write", _old_versions), name="store: repeats versions")
mutant(wrapped(MemoryStore, "_write", _hides_conflicts), name="store: hides conflicts")
mutant(wrapped(MemoryStore, "_write", _keeps_first_end), name="store: keeps the first end")
mutant(wrapped(MemoryStore, "put_many", _unordered), name="store: answers out of order")
mutant(wrapped(MemoryStore, "get_many", _unordered), name="store: reads out of order")
mutant(wrapped(MemoryStore, "put", _lazy_put), name="store: does not push")
mutant(wrapped(MemoryStore, "put", _racy_put), name="store: compares and sets in two steps")


# ── clients and workers ──────────────────────────────────────────────────────────────────────────


def _core() -> Mapping[str, Any]:
    """Return faults of clients and workers."""

    async def ack_first(original: Any, settler: Settler, batch: Any) -> None:
        await settler._settle(batch)
        await original(settler, batch)

    def no_deadline(original: Any, performer: Performer, job: Any) -> Any:
        with patch.object(performer, "_clock", lambda: 0.0):
            return original(performer, job)

    async def no_examination(*_: Any) -> None:
        return None

    async def cancels_anything(original: Any, queries: JobQueries, job: Any) -> bool:
        await original(queries, job)
        return True

    async def no_claim(original: Any, sender: KeyedSender, calls: Any) -> None:
        for call in calls:
            call.version = ""

    async def starts_anyway(original: Any, a_worker: Any) -> None:
        await anyio.sleep(5.0)
        await original(a_worker)

    def lets_through(original: Any, contract: Contract, payload: Any, version: int) -> Any:
        try:
            return original(contract, payload, version)
        except TypeError:
            return original(contract, b'{"number":1}', version)

    def refuses_newer(original: Any, contract: Contract, payload: Any, version: int) -> Any:
        try:
            return original(contract, payload, version)
        except InvalidArguments as error:
            error.only_unknown = False
            raise

    return {
        "core: buries calls with newer parameters": wrapped(Contract, "unpack", refuses_newer),
        "core: forgets replays": patch(
            "taskcore.deadletter.dead_letters.Trail", lambda replay_of, **_: Trail(replay_of=replay_of)
        ),
        "core: acknowledges first": wrapped(Settler, "commit", ack_first),
        "core: counts no ends": patch.object(Settler, "count", lambda *_: None),
        "core: forgets ends": wrapped(Outcomes, "find", _nothing),
        "core: ignores deadlines": wrapped(Performer, "_decode", no_deadline),
        "core: examines nothing": wrapped(Admission, "inspect", no_examination),
        "core: says cancelled": wrapped(JobQueries, "cancel", cancels_anything),
        "core: takes every key": patch("taskcore.records.keys._look", lambda *_: None),
        "core: claims no key": wrapped(KeyedSender, "_claim", no_claim),
        "core: stops late": wrapped(worker.Worker, "_wind_down", starts_anyway),
        "core: blames the interrupted": patch(
            "taskcore.worker.failures.Interrupted", lambda started: Malformed("stopped")
        ),
        "core: checks no arguments": wrapped(Contract, "unpack", lets_through),
        "core: keeps the latest error": wrapped(
            Trail, "with_error", lambda original, trail, error: change(original(trail, error), errors=(error,))
        ),
        "core: counts no attempts": wrapped(
            Trail, "with_error", lambda original, trail, error: change(original(trail, error), attempts=trail.attempts)
        ),
        "core: answers with any task's outcome": patch("taskcore.results.other_task_of", lambda *_: None),
        "core: says nothing": patch("taskcore.observe.Events.emit", lambda *_, **__: None),
        "core: forgets nothing first": wrapped(Settler, "ack_early", _does_not_forget),
        "core: leases what it acknowledges first": wrapped(Settler, "ack_early", _leases_meanwhile),
        "core: clears no markers": patch.object(StartMarkers, "clear", _nothing),
        "core: lets late outcomes stand": patch.object(Outcomes, "retract", _nothing),
        "core: commits any key": patch("taskcore.records.keys._is_ours", lambda *_: True),
    }


def _dies(self: Any, job: Any, error: BaseException) -> Any:
    raise error


async def _does_not_forget(original: Any, performer: Any, job: Any) -> bool:
    return True


async def _leases_meanwhile(original: Any, settler: Any, job: Any) -> bool:
    is_forgotten = not await job.source.settle([(job.delivery, CLAIM)])
    if is_forgotten:
        job.state = STARTED_ACKED
    return is_forgotten


async def _takes_its_time(original: Any, backend: MemoryBackend, batch: Any) -> Any:
    await anyio.sleep(0.0012)  # callers that come meanwhile share the next batch
    return await original(backend, batch)


async def _lets_out(self: Any, error: Exception, *_: Any) -> Any:
    raise error


for _name, _patch in _core().items():
    mutant(_patch, name=_name)
mutant(
    patch.object(Failures, "raised", _dies),
    patch.object(Slots, "_perform_in_spite_of", _lets_out),
    name="core: lets errors out",
)
mutant(
    wrapped(MemoryBackend, "publish", _takes_its_time),
    patch.object(Detached, "run", lambda _, work: work()),
    name="core: carries a batch in its leader's call",
)
