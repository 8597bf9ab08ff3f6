"""The programs that send: one job at a time, or with ``--batches`` many at once, until they are told to stop, or die.

An enqueue whose answer is "refused" or "uncertain" is repeated under the same id, as the guarantees advise; except at
most once, whose repeat could be a second job where the broker does not deduplicate.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import sys
import time
from itertools import count, islice
from typing import Any

import anyio
import msgspec

from benchmarks.soak.app import Spec, make_app
from benchmarks.soak.calls import Request, burst, requests
from benchmarks.soak.ledger import WHO, Ledger, from_environment
from benchmarks.soak.tasks import result_digest
from benchmarks.soak.worker import UNREACHABLE
from taskcore import App, Job
from taskcore.errors import BrokerError, BrokerUnavailable, EnqueueRefused, EnqueueUncertain, JobError, ResultTimeout

__all__ = ["ANSWER_WITHIN"]

log = logging.getLogger("soak")

PAUSE = 0.06  #: seconds between two jobs of the single sender, on average
BATCH_PAUSE = 1.5  #: … between two batches
BATCH = (5, 40)  #: jobs in a batch
REPEAT_AFTER = 0.5  #: seconds before a repeat
GIVES_UP_AFTER = 40.0  #: seconds for which an enqueue is repeated
ANSWER_WITHIN = 40.0  #: seconds for which a caller waits for a result
BURST_EACH = 8  #: batches from one burst to the next
AT_ONCE = 40  #: enqueues of the single sender under way
LAST_WORDS = 8.0  #: seconds for what is under way after the signal to stop


class Sender:
    """Sends, and writes down how it was answered."""

    def __init__(self, app: App, ledger: Ledger, spec: Spec, *, batched: bool) -> None:
        self._app = app
        self._ledger = ledger
        self._spec = spec
        self._dice = random.Random(spec.seed)
        first = os.environ[WHO].endswith(".1")
        self._wishes = requests(self._dice, spec, batched=batched, all_first=first)
        self._room = anyio.CapacityLimiter(AT_ONCE)

    async def send_singly(self) -> None:
        """Send one job after the other; slow answers do not hold up the next one."""
        async with anyio.create_task_group() as group:
            while True:
                group.start_soon(self._send, next(self._wishes))
                await anyio.sleep(self._dice.uniform(0.0, 2 * PAUSE))

    async def send_batches(self) -> None:
        """Send one batch after the other, and a burst now and then."""
        for number in count(1):
            is_burst = number % BURST_EACH == 2
            wishes = burst(self._dice, self._spec) if is_burst else islice(self._wishes, self._dice.randint(*BATCH))
            await self._send_batch(list(wishes))
            await anyio.sleep(self._dice.uniform(0.0, 2 * BATCH_PAUSE))

    # ── one ──

    async def _send(self, wish: Request) -> None:
        async with self._room:
            job = await self._enqueue(wish)
        if job is None:
            return
        if wish.kind.name == "cancelled":
            await anyio.sleep(wish.facts["delay"] / 2)
            await self._cancel(job)
        if wish.kind.name == "awaited":
            await self._await(job)

    async def _enqueue(self, wish: Request) -> Job[Any] | None:
        until = time.monotonic() + GIVES_UP_AFTER
        while time.monotonic() < until:
            self._ledger.write("sending", wish.id, **wish.facts)
            try:
                job = await self._app.send(wish.call)
            except (BrokerUnavailable, EnqueueRefused) as error:
                self._ledger.write("refused", wish.id, why=error.what)
            except EnqueueUncertain as error:
                self._ledger.write("uncertain", wish.id, why=error.what)
                if wish.kind.name == "once":
                    return None
            except Exception as error:  # noqa: BLE001 - any that no call documents is an offence
                self._fail("enqueue", wish.id, error)
                return None
            else:
                self._confirm(wish, job)
                return job
            await anyio.sleep(REPEAT_AFTER)
        return None

    def _confirm(self, wish: Request, job: Job[Any]) -> None:
        if job.id == wish.id:
            self._ledger.write("confirmed", wish.id)
        else:  # its key belongs to another job
            self._ledger.write("joined", wish.id, first=job.id)

    async def _cancel(self, job: Job[Any]) -> None:
        """Cancel it; a cancellation without an answer is repeated, because the first may have done half of it."""
        until = time.monotonic() + GIVES_UP_AFTER
        while time.monotonic() < until:
            self._ledger.write("cancelling", job.id)
            try:
                taken_back = await job.cancel()
            except BrokerError as error:
                self._ledger.write("cancel?", job.id, why=error.what)
            except Exception as error:  # noqa: BLE001 - any that no call documents is an offence
                self._fail("cancel", job.id, error)
                return
            else:
                self._ledger.write("cancelled" if taken_back else "too late", job.id)
                return
            await anyio.sleep(REPEAT_AFTER)

    async def _await(self, job: Job[Any]) -> None:
        self._ledger.write("awaiting", job.id)
        until = time.monotonic() + ANSWER_WITHIN
        while (left := until - time.monotonic()) > 0:
            try:
                value = await job.result(timeout=left)
            except ResultTimeout:
                break
            except BrokerError:
                await anyio.sleep(REPEAT_AFTER)
            except JobError as error:
                self._ledger.write("heard", job.id, error=error.code)
                return
            except Exception as error:  # noqa: BLE001 - any that no call documents is an offence
                self._fail("result", job.id, error)
                return
            else:
                self._ledger.write("heard", job.id, result=result_digest(value))
                return
        self._ledger.write("unheard", job.id)

    # ── many ──

    async def _send_batch(self, batch: list[Request]) -> None:
        until = time.monotonic() + GIVES_UP_AFTER
        while batch and time.monotonic() < until:
            self._ledger.write_many([("sending", wish.id, wish.facts) for wish in batch])
            doubt = "uncertain"
            try:
                jobs: list[Job[Any] | None] = [*await self._app.enqueue_many([wish.call for wish in batch])]
            except BrokerError as error:  # some were sent; which of the others surely were not, it does not say
                jobs = list(error.jobs) or [None] * len(batch)
                doubt = "refused" if isinstance(error, BrokerUnavailable) and not any(jobs) else doubt
            except Exception as error:  # noqa: BLE001 - any that no call documents is an offence
                self._fail("enqueue_many", batch[0].id, error)
                return
            for wish, job in zip(batch, jobs, strict=True):
                if job is None:
                    self._ledger.write(doubt, wish.id, why="its batch was not answered as a whole")
                else:
                    self._confirm(wish, job)
            batch = [
                wish
                for wish, job in zip(batch, jobs, strict=True)
                if job is None and (doubt == "refused" or wish.kind.name != "once")
            ]
            await anyio.sleep(REPEAT_AFTER)

    def _fail(self, call: str, job: str, error: Exception) -> None:
        """Note an error that no call documents."""
        log.error("%s of %s failed", call, job, exc_info=error)
        self._ledger.write("offence", job, call=call, error=f"{type(error).__name__}: {error}")


async def send(spec: Spec, *, batches: bool) -> int:
    """Send until SIGTERM; return the exit code."""
    app, ledger = make_app(spec), from_environment()
    sender = Sender(app, ledger, spec, batched=batches)
    try:
        await app.__aenter__()
    except BrokerUnavailable:
        log.exception("the sender cannot connect")
        return UNREACHABLE
    async with anyio.create_task_group() as group:
        print("ready", flush=True)
        group.start_soon(sender.send_batches if batches else sender.send_singly)
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(aiter(signals))
        group.cancel_scope.cancel()
    with anyio.move_on_after(LAST_WORDS):
        await app.__aexit__(None, None, None)
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    told = msgspec.json.decode(sys.argv[1], type=Spec)
    sys.exit(anyio.run(lambda: send(told, batches="--batches" in sys.argv)))
