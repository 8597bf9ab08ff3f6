"""The checker with a real worker: an honest broker passes, whatever its line does; a broken broker is caught."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import msgspec
import pytest

from taskcore import Retry as RetryPolicy
from taskcore import Snooze, current
from taskcore.backend import Delivery, Outgoing
from taskcore.backends.memory import MemoryBackend
from taskcore.conformance.checking import Report, check_history, collect
from taskcore.conformance.checking.recorder import RecordingBackend
from taskcore.conformance.harness import Harness
from taskcore.faults import DropReply, Fail, FlakyBackend
from taskcore.lifecycle import ACK, RELEASE, Ack, Bury, Reschedule, Verdict
from taskcore.stores.memory import MemoryStore
from taskcore.testing.clock import run_virtually
from taskcore.testing.history import History

ATTEMPTS = 3


class Broken(MemoryBackend):
    """A broker with one thing wrong; subclasses say what."""

    def publish_as(self, batch: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Choose what is stored instead of what was sent."""
        return batch

    def carry_out(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Choose what is done instead of the verdict."""
        return verdict

    async def publish(self, batch: Sequence[Outgoing]) -> Any:
        """Store what the subclass makes of the batch."""
        stored = self.publish_as(batch)
        return (await super().publish(stored))[: len(batch)]

    @asynccontextmanager
    async def consume(self, queues: Sequence[str], *, lease: float) -> Any:
        """Open a source that carries out another verdict."""
        async with super().consume(queues, lease=lease) as source:
            settle = source.settle

            async def wrong(batch: Sequence[tuple[Delivery, Verdict]]) -> Sequence[Delivery]:
                return await settle([(delivery, self.carry_out(delivery, verdict)) for delivery, verdict in batch])

            source.settle = wrong
            yield source


class ForgetsRetries(Broken):
    """A retry ends the job."""

    def carry_out(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Ack instead of Retry."""
        return ACK if isinstance(verdict, Reschedule) else verdict


class ForgetsLetters(Broken):
    """Burying ends the job without a letter."""

    def carry_out(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Ack instead of Bury."""
        return ACK if isinstance(verdict, Bury) else verdict


class LosesTrails(Broken):
    """Letters have no trail."""

    def carry_out(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Bury without the errors."""
        return Bury(verdict.reason, b"") if isinstance(verdict, Bury) else verdict


class RunsAgain(Broken):
    """The first ack of each job is taken for a release."""

    seen: frozenset[bytes] = frozenset()

    def carry_out(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Release instead of Ack."""
        if isinstance(verdict, Ack) and delivery.envelope not in self.seen:
            self.seen |= {delivery.envelope}
            return RELEASE
        return verdict


class Hurries(Broken):
    """Delays are ignored."""

    def publish_as(self, batch: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Publish without the delay."""
        return [msgspec.structs.replace(job, delay=0.0) for job in batch]

    def carry_out(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Retry without the wait."""
        return Reschedule(0.0, verdict.trail) if isinstance(verdict, Reschedule) else verdict


class Drops(Broken):
    """Says that it has stored what it has not."""

    def publish_as(self, batch: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Publish to another queue."""
        return [msgspec.structs.replace(job, queue="nowhere") for job in batch]


class Alters(Broken):
    """Envelopes come back with other bytes."""

    def publish_as(self, batch: Sequence[Outgoing]) -> Sequence[Outgoing]:
        """Append a space to each envelope."""
        return [msgspec.structs.replace(job, envelope=job.envelope + b" ") for job in batch]


class Sits(Broken):
    """Retries wait for ever."""

    def carry_out(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Retry in a thousand years."""
        return Reschedule(3e10, verdict.trail) if isinstance(verdict, Reschedule) else verdict


async def play(backend: MemoryBackend, seed: int) -> Report:
    """Run forty jobs that fail, snooze, wait and expire, on a connection that loses replies."""
    dice = random.Random(seed)
    store = MemoryStore()
    async with Harness(lambda: backend, lambda: store, lease=30.0, margin=0.0) as harness:
        history = History(clock=harness.now)
        flaky = FlakyBackend(backend)
        app = await harness.app(around=lambda _: RecordingBackend(flaky, history, "app"), concurrency=3)
        history.listen(app, who="app")
        queue = harness.queue()

        @app.task(queue=queue, retry=RetryPolicy(attempts=ATTEMPTS))
        async def work(number: int) -> int:
            with history.run(current(), who="app"):
                await anyio.sleep(dice.random() * 5)
                match dice.randrange(6):
                    case 0 | 1:
                        raise ValueError(number)
                    case 2:
                        raise Snooze(5.0)
                history.effect(str(number), current().job_id)
                return number

        flaky.play("settle", [None, DropReply(), None, Fail(), DropReply()])
        async with app.running():
            jobs = await app.enqueue_many([work.call(number) for number in range(40)])
            jobs.append(await work.using(delay=60.0).enqueue(41))
            jobs.append(await work.using(expires=0.1).enqueue(42))
            with anyio.move_on_after(3_600):
                await app.drain()
        final = await collect(app, [queue], [job.id for job in jobs])
    return check_history(history, final, attempts=ATTEMPTS, crashes=3, delta=0.001, time_limit=30.0)


@pytest.mark.parametrize("seed", range(5))
def test_an_honest_broker_passes(seed: int) -> None:
    """A real worker on an honest broker breaks no promise, though its line loses replies and fails."""
    report = run_virtually(play, MemoryBackend(), seed)
    assert not report.broken, str(report)
    assert len(report.histories) == 42


@pytest.mark.parametrize(
    ("broken", "count"),
    [
        (ForgetsRetries, "lost"),
        (ForgetsLetters, "lost"),
        (LosesTrails, "dlq_bad"),
        (RunsAgain, "duplicated"),
        (Hurries, "early"),
        (Drops, "lost"),
        (Alters, "unexpected"),
        (Sits, "stuck"),
    ],
)
def test_a_broken_broker_is_caught(broken: type[Broken], count: str) -> None:
    """One thing is wrong with the broker, and the count for it is too high; the report prints the history."""
    report = run_virtually(play, broken(), 1)
    assert count in report.violations, str(report)
    assert "the history of" in str(report)
