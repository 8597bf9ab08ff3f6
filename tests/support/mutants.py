"""Seeded bugs: small patches of the real code, each of them a promise broken on purpose.

A suite that does not notice them proves nothing. Each mutant says who has to find it: the random stories of the model,
or the sweep over all crash points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec

from taskcore import asking, deadletter, idempotency, lifecycle
from taskcore.backend import Uncertain
from taskcore.backends import memory, memory_ledger
from taskcore.backends.memory_ledger import LEASED, READY, SCHEDULED, Ledger
from taskcore.client import Client
from taskcore.envelope import Trail, decode_envelope, decode_trail, encode_envelope, encode_trail
from taskcore.lifecycle import Ack, Bury, Expired, Release, Retry
from taskcore.points import point
from taskcore.policy import Retry as RetryPolicy
from taskcore.results import Results
from taskcore.store import ANY, Write
from taskcore.worker import performing
from taskcore.worker.performing import Performer
from taskcore.worker.settling import Settler

__all__ = ["MUTANTS", "Mutant"]


class Mutant(NamedTuple):
    """A bug, who finds it, and how to plant it."""

    name: str
    found_by: str
    plant: Callable[[], AbstractContextManager[Any]]


MUTANTS: list[Mutant] = []


def mutant(found_by: str) -> Callable[[Callable[[], Iterator[None]]], None]:
    """Register a generator function that plants a bug; its docstring says what is wrong."""

    def register(plant: Callable[[], Iterator[None]]) -> None:
        MUTANTS.append(Mutant(plant.__name__, found_by, contextmanager(plant)))

    return register


def instead(owner: Any, name: str, function: Callable[..., Any]) -> AbstractContextManager[Any]:
    """``function`` gets the original first, then what the original would get."""
    original = getattr(owner, name)
    return patch.object(owner, name, lambda *args, **named: function(original, *args, **named))


# ── the broker ───────────────────────────────────────────────────────────────────────────────────


@mutant("model")
def ack_forgets_ids():
    """Dedup forgotten on ack."""
    with patch.object(Ledger, "_ended_lately", lambda self, job_id, now: False):
        yield


@mutant("model")
def ready_list_is_trimmed():
    """A queue that keeps only the newest."""

    def publish(original, self, item, now, **named):
        answer = original(self, item, now, **named)
        shelf = self.queues[item.queue]
        while shelf.counts[READY] > 2:
            self._end(next(job for job in shelf.ready if job.place is READY), now)
        return answer

    with instead(Ledger, "publish", publish):
        yield


@mutant("sweep")
def promotion_is_not_atomic():
    """Removed from the delay store, then inserted into ready."""

    def advance(original, self, now):
        while self._due and self._due[0][0] <= now:
            job = memory_ledger.heapq.heappop(self._due)[2]
            if job.place is SCHEDULED and job.expires <= now:
                point("promote.popped")
                self._make_ready(job, now)
        original(self, now)

    with instead(Ledger, "advance", advance):
        yield


@mutant("sweep")
def receive_pops_before_the_lease():
    """Gone from ready, then leased."""

    def lease(original, self, queues, limit, lease, now):
        self.advance(now)
        for shelf in (self.queues[name] for name in queues if name in self.queues):
            if shelf.ready:
                head = shelf.ready.popleft()
                point("receive.popped")
                shelf.ready.appendleft(head)
        return original(self, queues, limit, lease, now)

    with instead(Ledger, "lease", lease):
        yield


@mutant("model")
def no_fencing():
    """Whoever held it once may settle it."""
    with patch.object(memory_ledger.Hold, "valid", property(lambda self: self.job.place is LEASED)):
        yield


@mutant("model")
def lost_leases_are_not_reported():
    """Settling says that all went well."""

    async def settle(original, self, batch):
        await original(self, batch)
        return []

    with instead(memory.MemorySource, "settle", settle):
        yield


@mutant("model")
def extending_revives_an_expired_lease():
    """A heartbeat after the end."""

    async def extend(self, batch):
        expires = memory.anyio.current_time() + self._lease
        return [delivery for delivery in batch if not self._ledger.extend(delivery, expires)]

    with patch.object(memory.MemorySource, "extend", extend):
        yield


@mutant("model")
def reclaiming_resets_the_count():
    """A delivery after a lost lease looks like the first."""

    def advance(original, self, now):
        original(self, now)
        for job in self._jobs.values():
            job.redeliveries = 0

    with instead(Ledger, "advance", advance):
        yield


@mutant("model")
def expired_leases_stay():
    """Nobody looks for them."""

    def advance(original, self, now):
        leases, self._leases = self._leases, []
        original(self, now)
        self._leases = leases

    with instead(Ledger, "advance", advance):
        yield


@mutant("model")
def release_counts_as_a_crash():
    """What is given back looks like a lost lease."""

    def settle(original, self, delivery, verdict, now):
        if isinstance(verdict, Release) and delivery.receipt.valid:
            delivery.receipt.job.redeliveries += 1
        return original(self, delivery, verdict, now)

    with instead(Ledger, "settle", settle):
        yield


@mutant("sweep")
def retry_acks_before_it_republishes():
    """The old copy ends first."""

    def settle(original, self, delivery, verdict, now):
        hold = delivery.receipt
        if not isinstance(verdict, Retry) or not hold.valid:
            return original(self, delivery, verdict, now)
        self._end(hold.job, now)
        point("retry.acked")
        self._jobs[hold.job.id] = hold.job
        hold.job.place = LEASED
        hold.job.shelf.counts[LEASED] += 1
        hold.job.shelf.counts[memory_ledger.GONE] -= 1
        del self._ended[hold.job.id]
        return original(self, delivery, verdict, now)

    with instead(Ledger, "settle", settle):
        yield


@mutant("sweep")
def dead_letter_is_acked_first():
    """The job ends, then its letter is written."""

    def settle(original, self, delivery, verdict, now):
        hold = delivery.receipt
        if not isinstance(verdict, Bury) or not hold.valid:
            return original(self, delivery, verdict, now)
        self._end(hold.job, now)
        point("bury.acked")
        self._bury(hold.job, verdict.reason, verdict.trail)
        return True

    with instead(Ledger, "settle", settle):
        yield


@mutant("model")
def promoted_early():
    """Due two seconds before its time."""

    def schedule(original, self, job, due):
        original(self, job, due - 2.0)

    with instead(Ledger, "_schedule", schedule):
        yield


@mutant("model")
def cancelled_jobs_still_start():
    """Removing says yes and does nothing."""

    def remove(original, self, queue, job_id, now):
        job = self._jobs.get(job_id)
        return job is not None and job.place in (READY, SCHEDULED)

    with instead(Ledger, "remove", remove):
        yield


@mutant("model")
def replay_keeps_the_letter():
    """The job is sent again, its letter stays."""
    with patch.object(Ledger, "drop", lambda self, letter_id: True):
        yield


# ── the client ───────────────────────────────────────────────────────────────────────────────────


@mutant("model")
def client_retry_duplicates():
    """An uncertain publish is repeated as another job."""

    async def publish(original, self, batch):
        answers = list(await original(self, batch))
        for index, answer in enumerate(answers):
            if isinstance(answer, Uncertain):
                envelope = msgspec.structs.replace(decode_envelope(batch[index].envelope), id=batch[index].id + "-again")
                again = msgspec.structs.replace(batch[index], id=envelope.id, envelope=encode_envelope(envelope))
                [answers[index]] = await original(self, [again])
        return answers

    with instead(Client, "_publish", publish):
        yield


@mutant("model")
def replay_loses_the_key():
    """The new incarnation is another envelope."""

    def encode(original, envelope):
        return original(msgspec.structs.replace(envelope, key=None))

    with instead(deadletter, "encode_envelope", encode):
        yield


@mutant("sweep")
def cancelling_again_does_not_finish():
    """Whoever was interrupted between removing and saying so is told that it is too late."""

    async def nowhere(self, job):
        return False

    with patch.object(asking.Desk, "_is_nowhere", nowhere):
        yield


# ── the rule book ────────────────────────────────────────────────────────────────────────────────


@mutant("model")
def one_attempt_too_many():
    """Attempts off by one."""

    def wait(original, self, failures, error, roll):
        return original(msgspec.structs.replace(self, attempts=self.attempts + 1), failures, error, roll)

    with instead(RetryPolicy, "wait", wait):
        yield


@mutant("model")
def failed_attempts_are_not_counted():
    """The error is kept, the number is not."""

    def with_error(original, self, record):
        return msgspec.structs.replace(original(self, record), attempts=self.attempts)

    with instead(Trail, "with_error", with_error):
        yield


@mutant("model")
def letter_keeps_the_last_error_only():
    """What was tried before is forgotten."""

    def bury(original, reason, trail):
        return original(reason, msgspec.structs.replace(trail, errors=trail.errors[-1:]))

    with instead(lifecycle, "_bury", bury):
        yield


@mutant("sweep")
def late_letter_lacks_its_last_error():
    """A death that was recorded before the crash is carried out without the error that it died of."""

    def decide(original, outcome, trail, rules, *, roll):
        if isinstance(outcome, lifecycle.Buried):
            outcome = lifecycle.Buried(outcome.reason)
        return original(outcome, trail, rules, roll=roll)

    from taskcore.worker import concluding  # noqa: PLC0415 - its name for it has to be replaced

    with instead(concluding, "decide", decide):
        yield


@mutant("model")
def no_pause_between_attempts():
    """Retries come at once."""

    def again(original, after, trail):
        return original(0.0, trail)

    with instead(lifecycle, "_again", again):
        yield


@mutant("model")
def no_crash_limit():
    """Nobody is ever suspected."""
    with patch.object(performing, "suspected", lambda starts, rules: False):
        yield


@mutant("model")
def starts_are_not_marked():
    """The marker is gone before the function starts."""

    async def mark(self, job):
        if job.marker is not None and self._store is not None:
            await self._store.put_many([Write(key=job.marker, value=None)])
            point("examine.marked")

    with patch.object(Performer, "_mark", mark):
        yield


@mutant("model")
def expired_jobs_run():
    """A deadline is only a number."""

    def open_(original, self, job):
        outcome = original(self, job)
        return None if isinstance(outcome, Expired) else outcome

    with instead(Performer, "_open", open_):
        yield


@mutant("model")
def at_most_once_acks_afterwards():
    """The broker remembers it while it runs."""

    async def forget(self, job):
        point("once.forgotten")
        return True

    with patch.object(Performer, "_forget_first", forget):
        yield


# ── settling ─────────────────────────────────────────────────────────────────────────────────────


@mutant("sweep")
def ack_before_the_result():
    """The broker forgets the job, then its ending is stored."""

    async def write(original, self, store, batch):
        await self._settle([one for one in batch if not one.settled])
        point("settle.acked")
        await original(self, store, batch)

    with instead(Settler, "_write_endings", write):
        yield


@mutant("model")
def late_worker_overwrites_the_result():
    """The last one wins."""
    with patch.object(
        Results, "write", staticmethod(lambda job_id, ending, keep: Write(f"job/{job_id}", ending, ANY, keep))
    ):
        yield


@mutant("sweep")
def markers_stay():
    """Nobody clears them."""

    async def clear(self, store, batch):
        pass

    with patch.object(Settler, "_clear_markers", clear):
        yield


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


@mutant("model")
def keys_complete_without_a_fence():
    """Whoever held the key once may commit."""

    def complete(original, won, ending):
        return msgspec.structs.replace(original(won, ending), expect=ANY)

    def plant(name):
        original = getattr(idempotency.Idempotency, name)
        return patch.object(idempotency.Idempotency, name, staticmethod(lambda *args: complete(original, *args)))

    with ExitStack() as stack:
        stack.enter_context(plant("complete"))
        yield


@mutant("model")
def keys_of_the_dead_stay_held():
    """A hold never ends."""

    def look(original, record, job, now):
        return original(record, job, float("-inf"))

    with instead(idempotency, "_look", look):
        yield


@mutant("sweep")
def keys_are_not_asked():
    """A second job with the same key runs as if it were the first."""

    def look(original, record, job, now):
        return None

    with instead(idempotency, "_look", look):
        yield


@mutant("model")
def fences_begin_anew():
    """When the record of a key is gone, its fence is forgotten."""

    async def take(original, self, name, claim, *, least_fence=1, **named):
        return await original(self, name, claim, **named)

    with instead(idempotency.Idempotency, "take", take):
        yield


