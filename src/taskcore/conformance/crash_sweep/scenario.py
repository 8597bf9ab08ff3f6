"""The scenario: a job in some state, one operation upon it, and what a healthy worker makes of the rest.

States and operations are small async methods by name, so that every operation can be crashed in every state, here or in
a process of its own that really dies.
"""

from __future__ import annotations

from typing import Any, Final

import anyio
import msgspec

from taskcore.backend import Outgoing
from taskcore.conformance.crash_sweep.environment import ERRORS, KEY_WINDOW, SweepEnvironment
from taskcore.envelope import FORMAT, Envelope, encode_envelope
from taskcore.task import Task
from taskcore.testing.crash_points import SimulatedCrash, crash_at

__all__ = ["CLIENT", "DEADLY", "OPERATIONS", "STATES", "WORKER", "Scenario"]


class Scenario(SweepEnvironment):
    """States and operations."""

    # ── states: what happened to the job before ──

    async def fresh(self, task: Task[..., Any]) -> None:
        """Enqueue it."""
        await self.send(task)

    async def keyed(self, task: Task[..., Any]) -> None:
        """Enqueue it with a key."""
        self.key = f"{self.mark}-key"
        await self.send(task)

    async def key_wanted_twice(self, task: Task[..., Any]) -> None:
        """Let another job with the same key wait behind it."""
        await self.keyed(task)
        [twin] = [task.using(id=self.id("b"), key=self.key).call("a")]
        await self._publish_raw(twin, self.id("b"))

    async def delayed(self, task: Task[..., Any]) -> None:
        """Send it for later."""
        await self.send(task, delay=self.lease / 2)

    async def retried(self, task: Task[..., Any]) -> None:
        """Let it fail once."""
        await self.send(task)
        await self.fail_once()

    async def keyed_and_retried(self, task: Task[..., Any]) -> None:
        """Enqueue it with a key, and let it fail once."""
        await self.keyed(task)
        await self.fail_once()

    async def redelivered(self, task: Task[..., Any]) -> None:
        """Let its first worker die."""
        await self.send(task)
        await self.die_running()

    async def redelivered_twice(self, task: Task[..., Any]) -> None:
        """Let two workers die of it; this is its last chance."""
        await self.redelivered(task)
        await self.die_running()

    async def retried_and_redelivered(self, task: Task[..., Any]) -> None:
        """Let it fail, and then let its worker die."""
        await self.retried(task)
        await self.die_running()

    async def keyed_and_redelivered(self, task: Task[..., Any]) -> None:
        """Enqueue it with a key, and let its first worker die holding it."""
        await self.keyed(task)
        await self.die_running()

    async def key_held_by_the_dead(self, task: Task[..., Any]) -> None:
        """Let its worker die holding its key, while another job waits for that key."""
        await self.key_wanted_twice(task)
        await self.die_running()

    async def key_outlived(self, task: Task[..., Any]) -> None:
        """Let it fail once, and wait longer than its key is remembered."""
        await self.keyed_and_retried(task)
        await anyio.sleep((KEY_WINDOW + 1) * self.lease)

    async def released_and_redelivered(self, task: Task[..., Any]) -> None:
        """Give it back unstarted, which is no crash; then let two workers die of it."""
        await self.send(task)
        step_worker = await self.step_worker()
        assert await step_worker.release(await self.take(step_worker))
        await self.end_workers()
        await self.die_running()
        await self.die_running()

    async def poisonous(self, task: Task[..., Any]) -> None:
        """Let three workers die of it."""
        await self.redelivered_twice(task)
        await self.die_running()

    async def keyed_and_poisonous(self, task: Task[..., Any]) -> None:
        """Enqueue it with a key, and let three workers die of it."""
        await self.keyed_and_redelivered(task)
        await self.die_running()
        await self.die_running()

    async def asked_to_cancel(self, task: Task[..., Any]) -> None:
        """Try to cancel it while it runs; then let its worker die."""
        await self.send(task)
        step_worker = await self.step_worker()
        await self.take(step_worker)
        assert not await self.handle(task=task).cancel()
        await self.end_workers()
        await self.outlast()

    async def expired(self, task: Task[..., Any]) -> None:
        """Let its deadline pass."""
        await self.send(task, expires=self.lease / 4)
        await anyio.sleep(self.lease / 2 + self.margin)

    async def redelivered_and_expired(self, task: Task[..., Any]) -> None:
        """Let two workers die of it, and its deadline pass meanwhile."""
        await self.send(task, expires=2 * self.lease)
        await self.die_running()
        await self.die_running()
        await self.outlast()

    async def buried(self, task: Task[..., Any]) -> None:
        """Make it a dead letter."""
        self.acts.insert(0, "reject")
        await self.send(task)
        step_worker = await self.step_worker()
        assert await step_worker.work(await self.take(step_worker))
        await self.end_workers()

    async def unknown(self, task: Task[..., Any]) -> None:
        """Do nothing: there is no job yet."""

    async def claimed(self, task: Task[..., Any]) -> None:
        """Let its sender die after claiming its key."""
        await self._die_sending("enqueue.claimed", task)

    async def published(self, task: Task[..., Any]) -> None:
        """Let its sender die before confirming that it was published."""
        await self._die_sending("enqueue.published", task)

    async def _die_sending(self, point: str, task: Task[..., Any]) -> None:
        self.key = f"{self.mark}-key"
        try:
            with crash_at(point):
                await self.send(task)
        except SimulatedCrash:
            self.died()
            return
        raise AssertionError(f"sending with a key should pass {point}")

    async def _publish_raw(self, call: Any, job_id: str) -> None:
        envelope = Envelope(
            v=FORMAT,
            id=job_id,
            task=call.task.name,
            queue=self.queue,
            args=msgspec.Raw(call.payload),
            enqueued_at=0.0,
            key=call.key,
        )
        await self.app.components.backend.publish([Outgoing(self.queue, job_id, encode_envelope(envelope))])

    # ── operations ──

    def prepare(self, operation: str) -> None:
        """Set what the function does when this operation starts it, and afterwards."""
        if operation in DEADLY:
            self.always = operation
        elif operation == "enqueue":
            self.key = f"{self.mark}-key"

    async def operate(self, operation: str) -> None:
        """Do the operation that will be interrupted."""
        self.prepare(operation)
        if operation in ERRORS and operation not in DEADLY:
            self.acts.insert(0, operation)
        if operation in WORKER:
            step_worker = await self.step_worker()
            job = await self.take(step_worker)
            if operation == "release":
                await step_worker.release(job)
            else:
                await step_worker.work(job)
        else:
            await getattr(self, f"do_{operation}")()

    async def do_enqueue(self) -> None:
        """Enqueue with a key."""
        await self.send(self.work)

    async def do_cancel(self) -> None:
        """Cancel what waits."""
        await self.handle().cancel()

    async def do_replay(self) -> None:
        """Send the dead letter's job again."""
        if self.letter is None:
            [letter] = [letter async for letter in self.app.dead_letters.read(self.queue)]
            self.letter = letter.id
        try:
            self.replayed = await self.app.dead_letters.replay(self.letter)
        except LookupError:
            assert self.crashes, "a letter that was just read is gone"

    # ── afterwards ──

    async def recover(self, operation: str) -> None:
        """Repeat the interrupted operation of a client; workers recover by themselves."""
        await self.end_workers()
        await self.outlast()
        if operation not in WORKER:
            await self.operate(operation)

    async def drain(self) -> None:
        """Run a healthy worker until nothing comes any more."""
        step_worker = await self.step_worker()
        for _ in range(200):
            if self.margin and await self._is_empty():
                return  # in real time, waiting for nothing would take longer than all the rest
            job = await step_worker.take(within=6 * self.lease + 2 * self.margin)
            if job is None:
                return
            await step_worker.work(job)
        raise AssertionError("C4: work goes on for ever")

    async def _is_empty(self) -> bool:
        if self.app.features.counts == "absent":  # zeros say nothing about what others hold
            return False
        stats = await self.app.stats(self.queue)
        return not stats.unfinished


#: After these there is no other attempt.
DEADLY: Final = ("exhaust", "give_up", "reject", "unencodable")

#: Operations that a worker does to a delivery, and those that clients do.
WORKER: Final = (
    "succeed", "fail", "exhaust", "give_up", "later", "soon", "snooze", "reject", "unencodable", "once", "release",
)  # fmt: skip
CLIENT: Final = ("enqueue", "cancel", "replay")
OPERATIONS: Final = (*WORKER, *CLIENT)

_HELD = (
    "fresh", "keyed", "key_wanted_twice", "delayed", "retried", "keyed_and_retried", "redelivered", "redelivered_twice",
    "retried_and_redelivered", "keyed_and_redelivered", "asked_to_cancel",
    "key_held_by_the_dead", "released_and_redelivered",
)  # fmt: skip

#: In which states an operation makes sense.
STATES: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(WORKER, _HELD),
    "succeed": (*_HELD, "poisonous", "keyed_and_poisonous", "expired", "redelivered_and_expired", "key_outlived"),
    "exhaust": ("fresh", "keyed", "key_wanted_twice", "redelivered", "redelivered_twice", "keyed_and_redelivered"),
    "once": ("fresh", "delayed"),
    "enqueue": ("unknown", "claimed", "published", "keyed", "keyed_and_retried"),
    "cancel": (
        "fresh",
        "keyed",
        "delayed",
        "retried",
        "redelivered",
        "asked_to_cancel",
        "published",
        "key_held_by_the_dead",
    ),
    "replay": ("buried",),
}
