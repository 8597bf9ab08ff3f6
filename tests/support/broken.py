"""Brokers that break one guarantee each: the conformance suite has to notice every one.

A mutant is a context manager that yields a factory of harnesses and undoes its patches at the end. ``broken_parts.py``
has broken letters, stores and workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from itertools import count
from typing import Any
from unittest.mock import patch

import anyio
import msgspec

from taskcore.backend import Delivery, Duplicate, Stored
from taskcore.backends.memory.backend import MemoryBackend, MemorySource
from taskcore.backends.memory.ledger import Ledger, Receipt
from taskcore.conformance.harness import Harness
from taskcore.lifecycle import ACK, Ack, Bury, Release, Reschedule

__all__ = ["MUTANTS", "Mutant", "change", "mutant", "numbers", "wrapped"]

Mutant = Callable[[], AbstractContextManager[Callable[[], Harness]]]
MUTANTS: dict[str, Mutant] = {}
change = msgspec.structs.replace


@contextmanager
def harnesses(*patches: Any) -> Iterator[Callable[[], Harness]]:
    """Make harnesses in memory, with a lease of a second, while these patches hold."""
    for one in patches:
        one.start()
    try:
        yield lambda: Harness.in_memory(lease=1.0, margin=0.0)
    finally:
        for one in patches:
            one.stop()


def mutant(*patches: Any, name: str) -> None:
    """Enter a mutant into the list."""
    MUTANTS[name] = lambda: harnesses(*patches)


def wrapped(owner: type, method: str, around: Callable[..., Any]) -> Any:
    """Patch a method; ``around`` gets the original first."""
    original = getattr(owner, method)

    def replacement(*args: Any, **kwargs: Any) -> Any:
        return around(original, *args, **kwargs)

    return patch.object(owner, method, replacement)


def settles(translate: Callable[[Any], Any]) -> Any:
    """Patch what verdicts do."""

    def settle(original: Any, ledger: Ledger, delivery: Delivery, verdict: Any, now: float) -> bool:
        return original(ledger, delivery, translate(verdict), now)

    return wrapped(Ledger, "settle", settle)


def publishes(translate: Callable[[Any], Any]) -> Any:
    """Patch what is stored."""

    def publish(original: Any, ledger: Ledger, item: Any, now: float, **options: Any) -> Any:
        return original(ledger, translate(item), now, **options)

    return wrapped(Ledger, "publish", publish)


def delivers(translate: Callable[[Any], Any]) -> Any:
    """Patch what is handed out."""

    def lease(original: Any, *args: Any) -> Any:
        return [translate(delivery) for delivery in original(*args)]

    return wrapped(Ledger, "lease", lease)


# ── publishing and settling ──────────────────────────────────────────────────────────────────────

mutant(settles(lambda verdict: ACK if isinstance(verdict, Release) else verdict), name="loses on release")
mutant(settles(lambda verdict: ACK if isinstance(verdict, Reschedule) else verdict), name="loses on retry")
mutant(
    settles(lambda verdict: ACK if isinstance(verdict, Reschedule) and 0 < verdict.after < 0.01 else verdict),
    name="loses on a retry with a short wait",
)
mutant(settles(lambda verdict: ACK if isinstance(verdict, Bury) else verdict), name="loses on bury")
mutant(settles(lambda v: change(v, trail=b"") if isinstance(v, Reschedule | Bury) else v), name="forgets trails")
mutant(settles(lambda v: change(v, after=v.after / 2) if isinstance(v, Reschedule) else v), name="retries early")
mutant(settles(lambda v: change(v, reason="dead") if isinstance(v, Bury) else v), name="forgets reasons")
mutant(publishes(lambda item: change(item, envelope=item.envelope.strip())), name="strips bytes")
mutant(publishes(lambda item: change(item, delay=item.delay * 0.5)), name="delivers early")
mutant(publishes(lambda item: change(item, delay=item.delay * 1.5)), name="delivers late")
mutant(publishes(lambda item: change(item, delay=0.0)), name="ignores delays")
numbers = count()
mutant(publishes(lambda item: change(item, id=f"{item.id}-{next(numbers)}")), name="ignores ids")
mutant(delivers(lambda delivery: change(delivery, redeliveries=0)), name="counts no redeliveries")
mutant(delivers(lambda delivery: change(delivery, redeliveries=delivery.redeliveries + 1)), name="counts one too many")


def _no_ack(original: Any, ledger: Ledger, delivery: Delivery, verdict: Any, now: float) -> bool:
    """Confirm the ack, and let the lease run out."""
    return True if isinstance(verdict, Ack) else original(ledger, delivery, verdict, now)


mutant(wrapped(Ledger, "settle", _no_ack), name="forgets acks")


def _unfenced(original: Any, ledger: Ledger, delivery: Delivery, verdict: Any, now: float) -> bool:
    job = delivery.receipt.job
    original(ledger, change(delivery, receipt=Receipt(job, job.fence)), verdict, now)
    return True


mutant(wrapped(Ledger, "settle", _unfenced), name="has no fence")


def _extends_anything(original: Any, ledger: Ledger, delivery: Delivery, expires: float) -> bool:
    job = delivery.receipt.job
    original(ledger, change(delivery, receipt=Receipt(job, job.fence)), expires)
    return True


mutant(wrapped(Ledger, "extend", _extends_anything), name="extends anything")
mutant(
    wrapped(Ledger, "extend", lambda original, ledger, delivery, expires: delivery.receipt.valid), name="never extends"
)
mutant(
    wrapped(Ledger, "lease", lambda original, self, queues, limit, lease, now: original(self, queues, limit, 1e9, now)),
    name="leases for ever",
)


def _twice(original: Any, ledger: Ledger, queues: Any, limit: int, lease: float, now: float) -> list[Delivery]:
    """Hand each job out, and leave it there for the next receiver."""
    found = original(ledger, queues, limit, lease, now)
    for delivery in found:
        job = delivery.receipt.job
        if job.fence == 1:
            ledger._make_ready(job, now)
    return found


mutant(wrapped(Ledger, "lease", _twice), name="hands out twice")


def _forgets(original: Any, ledger: Ledger, queues: Any, limit: int, lease: float, now: float) -> list[Delivery]:
    found = original(ledger, queues, limit, lease, now)
    for delivery in found:
        ledger._end(delivery.receipt.job, now)
    return found


mutant(wrapped(Ledger, "lease", _forgets), name="forgets when it hands out")
mutant(
    wrapped(
        Ledger,
        "lease",
        lambda original, self, queues, limit, lease, now: original(self, list(self.queues), limit + 5, lease, now),
    ),
    name="ignores queues and limits",
)


def _blames_release(original: Any, ledger: Ledger, delivery: Delivery, verdict: Any, now: float) -> bool:
    if isinstance(verdict, Release | Reschedule) and delivery.receipt.valid:
        done = original(ledger, delivery, verdict, now)
        delivery.receipt.job.redeliveries += 1
        return done
    return original(ledger, delivery, verdict, now)


mutant(wrapped(Ledger, "settle", _blames_release), name="blames workers that give back")


async def _half_a_batch(original: Any, backend: MemoryBackend, batch: Any) -> Any:
    answers = await original(backend, batch)
    return answers[: max(len(answers) // 2, 1)] if len(answers) > 100 else answers


async def _says_stored(original: Any, backend: MemoryBackend, batch: Any) -> Any:
    answers = await original(backend, batch)
    return [Stored() if isinstance(answer, Duplicate) else answer for answer in answers]


async def _loses_the_third(original: Any, backend: MemoryBackend, batch: Any) -> Any:
    answers = await original(backend, batch)
    for index in range(2, len(batch), 3):
        backend._ledger.remove(batch[index].queue, batch[index].id, anyio.current_time())
    return answers


async def _begins_anew(original: Any, backend: MemoryBackend, batch: Any) -> Any:
    if any(job.queue not in backend._ledger.queues for job in batch):
        await anyio.sleep(1.0)
    return await original(backend, batch)


mutant(wrapped(MemoryBackend, "publish", _begins_anew), name="begins anew with each try")
mutant(wrapped(MemoryBackend, "publish", _half_a_batch), name="answers half of a batch")
mutant(wrapped(MemoryBackend, "publish", _says_stored), name="never says duplicate")
mutant(wrapped(MemoryBackend, "publish", _loses_the_third), name="loses every third")


async def _forgets_on_leaving(original: Any, backend: MemoryBackend, *exit: Any) -> None:
    for queue in list(backend._ledger.queues):
        backend._ledger.purge(queue, anyio.current_time())
        backend._ledger.queues[queue].letters.clear()


mutant(wrapped(MemoryBackend, "__aexit__", _forgets_on_leaving), name="forgets when a client disconnects")


# ── waiting ──────────────────────────────────────────────────────────────────────────────────────


async def _deaf(original: Any, source: MemorySource, limit: int) -> Any:
    """Look once, and never again."""
    found = source._ledger.lease(source._queues, limit, source._lease, anyio.current_time())
    if not found:
        await anyio.sleep_forever()
    return found


async def _stubborn(original: Any, source: MemorySource, limit: int) -> Any:
    with anyio.CancelScope(shield=True), anyio.move_on_after(3.0):
        return await original(source, limit)
    return await original(source, limit)


async def _careless(original: Any, source: MemorySource, limit: int) -> Any:
    """Lose what was taken, for good, if a cancellation comes before it is handed over."""
    found = await original(source, limit)
    try:
        await anyio.sleep(0.001)
    except BaseException:
        for delivery in found:
            source._ledger.settle(delivery, ACK, anyio.current_time())
        raise
    return found


mutant(wrapped(MemorySource, "receive", _deaf), name="does not notice new work")
mutant(wrapped(MemorySource, "receive", _stubborn), name="cannot be interrupted")
mutant(wrapped(MemorySource, "receive", _careless), name="loses what a cancelled receive had taken")

_busy: dict[int, anyio.Lock] = {}


def _one_at_a_time(method: str) -> Any:
    async def verb(original: Any, source: MemorySource, argument: Any) -> Any:
        async with _busy.setdefault(id(source), anyio.Lock()):
            return await original(source, argument)

    return wrapped(MemorySource, method, verb)


mutant(*map(_one_at_a_time, ("receive", "settle", "extend")), name="does one thing at a time")


@asynccontextmanager
async def _lingering(original: Any, backend: MemoryBackend, queues: Any, *, lease: float) -> Any:
    async with original(backend, queues, lease=lease) as source:
        try:
            yield source
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5.0)


mutant(wrapped(MemoryBackend, "consume", _lingering), name="lingers when it is left")
