"""Seeded bugs: small patches of the real code, each of them a promise broken on purpose.

A suite that does not notice them proves nothing. Each mutant says what has to find it: the random histories of the
model, or the sweep over all crash points.
"""

from __future__ import annotations

from contextlib import ExitStack
from unittest.mock import patch

import msgspec

from taskcore import deadletter, lifecycle
from taskcore.backend import Uncertain
from taskcore.client import queries
from taskcore.client.client import Client
from taskcore.envelope import EnvelopeCodec, Trail, decode_envelope, encode_envelope
from taskcore.lifecycle import DeadlinePassed
from taskcore.policy import Retry as RetryPolicy
from taskcore.records import keys
from taskcore.records.markers import StartMarkers
from taskcore.records.names import outcome_name
from taskcore.records.outcomes import Outcomes
from taskcore.store import ANY, Write
from taskcore.toolkit.failpoints import failpoint
from taskcore.worker import admission
from taskcore.worker.perform import Performer
from taskcore.worker.settle import Settler
from taskcore.worker.settle_records import RecordSettler
from tests.support import mutants_broker  # noqa: F401 - it plants its own
from tests.support.planting import MUTANTS, Mutant, instead, mutant

__all__ = ["MUTANTS", "Mutant"]


# ── the client ───────────────────────────────────────────────────────────────────────────────────


@mutant("model")
def client_retry_duplicates():
    """Repeat an uncertain publish as another job."""

    async def publish(original, self, batch):
        answers = list(await original(self, batch))
        for index, answer in enumerate(answers):
            if isinstance(answer, Uncertain):
                envelope = msgspec.structs.replace(
                    decode_envelope(batch[index].envelope), id=batch[index].id + "-again"
                )
                again = msgspec.structs.replace(batch[index], id=envelope.id, envelope=encode_envelope(envelope))
                [answers[index]] = await original(self, [again])
        return answers

    with instead(Client, "_publish", publish):
        yield


@mutant("model")
def replay_loses_the_key():
    """Send the new incarnation as another envelope."""

    async def replay(original, self, letter_id):
        codec = self._codec

        class Keyless(EnvelopeCodec):
            decode = staticmethod(codec.decode)

            @staticmethod
            def encode(envelope):
                return codec.encode(msgspec.structs.replace(envelope, key=None))

        with patch.object(self, "_codec", Keyless()):
            return await original(self, letter_id)

    with instead(deadletter.DeadLetters, "replay", replay):
        yield


@mutant("sweep")
def cancelling_again_does_not_finish():
    """Refuse, as too late, a cancellation that repeats an interrupted one."""

    async def nowhere(self, job):
        return False

    with patch.object(queries.JobQueries, "_is_nowhere", nowhere):
        yield


# ── the rule book ────────────────────────────────────────────────────────────────────────────────


@mutant("model")
def one_attempt_too_many():
    """Allow one attempt too many."""

    def wait(original, self, failures, error, roll):
        return original(msgspec.structs.replace(self, attempts=self.attempts + 1), failures, error, roll)

    with instead(RetryPolicy, "wait", wait):
        yield


@mutant("model")
def failed_attempts_are_not_counted():
    """Keep the error, but not the number."""

    def with_error(original, self, record):
        return msgspec.structs.replace(original(self, record), attempts=self.attempts)

    with instead(Trail, "with_error", with_error):
        yield


@mutant("model")
def letter_keeps_the_last_error_only():
    """Forget what was tried before."""

    def bury(original, reason, trail):
        return original(reason, msgspec.structs.replace(trail, errors=trail.errors[-1:]))

    with instead(lifecycle, "bury", bury):
        yield


@mutant("sweep")
def late_letter_lacks_its_last_error():
    """Carry out a death that was recorded before the crash without the error that it died of."""

    def decide(original, outcome, trail, rules, *, roll):
        if isinstance(outcome, lifecycle.Buried):
            outcome = lifecycle.Buried(outcome.reason)
        return original(outcome, trail, rules, roll=roll)

    from taskcore.worker import decide as deciding  # noqa: PLC0415 - its name for it has to be replaced

    with instead(deciding, "decide", decide):
        yield


@mutant("model")
def no_pause_between_attempts():
    """Retry at once."""

    def again(original, after, trail):
        return original(0.0, trail)

    with instead(lifecycle, "_reschedule", again):
        yield


@mutant("model")
def no_crash_limit():
    """Never suspect a job."""
    with patch.object(admission, "is_poison", lambda starts, rules: False):
        yield


@mutant("model")
def starts_are_not_marked():
    """Remove the marker before the function starts."""

    async def mark(self, marker, starts, expect):
        await self._store.put_many([Write(key=marker, value=None)])
        return True

    with patch.object(StartMarkers, "mark", mark):
        yield


@mutant("model")
def expired_jobs_run():
    """Treat a deadline as only a number."""

    def open_(original, self, job):
        outcome = original(self, job)
        return None if isinstance(outcome, DeadlinePassed) else outcome

    with instead(Performer, "_decode", open_):
        yield


@mutant("sweep")
def at_most_once_acks_afterwards():
    """Let the broker keep the job while it runs."""

    async def forget(self, job):
        failpoint("once.forgotten")
        return True

    with patch.object(Settler, "ack_early", forget):
        yield


# ── settling ─────────────────────────────────────────────────────────────────────────────────────


@mutant("sweep")
def ack_before_the_result():
    """Let the broker forget the job before its outcome is stored."""
    store = RecordSettler.store_outcomes

    async def commit(original, self, batch):
        async def write(records, ended):
            await self._settle([one for one in ended if not one.settled])
            failpoint("settle.acked")
            await store(records, ended)

        with patch.object(RecordSettler, "store_outcomes", write):
            await original(self, batch)

    with instead(Settler, "commit", commit):
        yield


@mutant("model")
def late_worker_overwrites_the_result():
    """Let the last writer win."""
    with patch.object(
        Outcomes,
        "write",
        staticmethod(
            lambda job_id, outcome, keep: Write(key=outcome_name(job_id), value=outcome, expect=ANY, keep=keep)
        ),
    ):
        yield


@mutant("sweep")
def markers_stay():
    """Leave the markers of finished jobs."""

    async def clear(self, markers):
        pass

    with patch.object(StartMarkers, "clear", clear):
        yield


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


@mutant("model")
def keys_complete_without_a_fence():
    """Let every former holder of a key commit."""

    def complete(original, won, outcome):
        return msgspec.structs.replace(original(won, outcome), expect=ANY)

    def plant(name):
        original = getattr(keys.IdempotencyKeys, name)
        return patch.object(keys.IdempotencyKeys, name, staticmethod(lambda *args: complete(original, *args)))

    with ExitStack() as stack:
        stack.enter_context(plant("complete"))
        yield


@mutant("sweep")
def keys_of_the_dead_stay_held():
    """Never end a claim."""

    def look(original, record, job, now):
        return original(record, job, float("-inf"))

    with instead(keys, "_look", look):
        yield


@mutant("sweep")
def keys_are_not_asked():
    """Run a second job with the same key as if it were the first."""

    def look(original, record, job, now):
        return None

    with instead(keys, "_look", look):
        yield


@mutant("sweep")
def fences_begin_anew():
    """Forget the fence of a key when its record is gone."""

    async def take(original, self, name, claim, *, least_fence=1, **named):
        return await original(self, name, claim, **named)

    with instead(keys.IdempotencyKeys, "acquire", take):
        yield
