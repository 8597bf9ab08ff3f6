"""KeeperThread: extends leases and keys while the event loop stands still, and names the line at which it does.

It steps in when half of a lease has passed without an extension, whatever the reason: a task that computes in the loop,
or other threads that leave it no time; after a third, if it sees that the loop is blocked. Then it connects by itself,
extends three times per lease, and steps back when the loop has extended for half a lease. A worker whose loop turns has
no second connection, and pays for a look at what is in hand a few times per second.

The thread reads the set of executions, and writes only when what they hold was extended.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, NamedTuple, TypeAlias

import anyio
import anyio.abc
from anyio.lowlevel import current_token

from taskcore.backend import Source
from taskcore.components import Components
from taskcore.keeping.blocking_lines import blocking_place, holding_place
from taskcore.keeping.keeper_process import KeeperProcess, KeepingTimes, innermost
from taskcore.keeping.seam import Extender, IssuesTickets, LendsExtenders, MadeOfURL
from taskcore.records.keys import IdempotencyKeys
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import STARTED_ACKED, Execution
from taskcore.worker.leases import LeaseKeeper

__all__ = ["KeeperThread"]

log = logger("taskcore.worker")

HeldJobs: TypeAlias = dict[Source, list[Execution]]

LONGEST_NOTICE = 2.0  #: seconds after which a loop that does not answer counts as blocked, or a third of a lease
LOOKS_BEFORE_NOTICE = 4  #: in that time
JOIN_TIMEOUT = 0.1  #: seconds


class _Extending(NamedTuple):
    """What the thread has opened."""

    extender: Extender | None
    keys: IdempotencyKeys | None


class KeeperThread:
    """Keeps what the keeper in the loop cannot keep; a service of a worker.

    :param max_block: seconds after which a blocked loop loses its leases.
    """

    def __init__(self, keeper: LeaseKeeper, components: Components, max_block: float) -> None:
        self._keeper = keeper
        self._events = components.events
        self._backend = innermost(components.backend)
        self._store = innermost(components.store)
        self._lease = lease = keeper.lease
        self._max_block = max_block
        self._notice = min(lease / 3, LONGEST_NOTICE)
        self._tick = self._notice / LOOKS_BEFORE_NOTICE
        self._stop = threading.Event()
        self._renews = isinstance(self._store, MadeOfURL)
        self._extended = 0.0  # when the thread did
        self._asked: float | None = None  # when the loop was asked for a sign of life that it has not given
        self._where = ""  # the line at which it stands
        self._gave_up = False
        self._failed = False  # in this block, and that was logged
        silence = getattr(self._backend, "silence", None) or lease
        self._patience = min(self._notice, silence / LOOKS_BEFORE_NOTICE)
        self._process = KeeperProcess(
            self._backend, self._store, KeepingTimes(lease, max_block, self._patience, self._tick)
        )
        self._timer: Any = None
        self._kept = 0.0  # when that process extended, as far as it is noted here
        keeper.woken = self._notice_late

    # ── in the event loop ──

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled."""
        self._call_soon, self._clock = _ways_into_this_loop()
        self._at = self._clock(), time.monotonic()
        self._loop_thread = threading.get_ident()
        self._stop.clear()
        keeper = self._keeper
        if self._process.is_useful:
            keeper.note, keeper.catch_up = self._process.note, self._catch_up
            if keeper.records is not None:
                keeper.records.keys.acquired = self._process.note_key
        thread = threading.Thread(target=self._watch, name="taskcore leases", daemon=True)
        thread.start()
        loop: Any = current_token().native_token
        if self._process.is_useful and hasattr(loop, "call_at"):
            self._call_at = loop.call_at
            self._turn(self._clock())
        task_status.started()
        try:
            await anyio.sleep_forever()
        finally:
            self._stop.set()
            if self._timer is not None:
                self._timer.cancel()
            keeper.note = None
            self._process.close()
            thread.join(JOIN_TIMEOUT)  # it ends at once, unless it is extending; then it does so by itself

    def _turn(self, due: float) -> None:
        """See whether the loop stood still; due timers run before the tasks to which sockets brought something.

        The thread, which tells of that, may get its turn later.
        """
        now = self._clock()
        if now - due > self._notice:
            self._catch_up()
            self._tell_sources(now - due + self._tick)
        self._timer = self._call_at(now + self._tick, self._turn, now + self._tick)

    def _answer(self) -> None:
        """Give a sign of life; tell of a block that is over, before the loop reads what came meanwhile."""
        asked, where, self._asked, self._where = self._asked, self._where, None, ""
        self._at = self._clock(), time.monotonic()
        self._gave_up = self._failed = False
        self._catch_up()
        self._process.note_all(self._keeper.executions, self._keeper.held_keys())
        if asked is not None and where:
            seconds = time.monotonic() - asked
            self._keeper.block = self._at[0], f"loop blocked for {seconds:.1f} s in {where}"
            self._events.emit("loop.blocked", seconds=seconds, where=where)
            self._tell_sources(seconds)

    def _tell_sources(self, seconds: float) -> None:
        known = {*self._keeper.extended, *(job.source for job in self._keeper.executions)}
        for source in map(innermost, known):
            if isinstance(source, IssuesTickets):
                source.stood_still(seconds)

    def _notice_late(self, due: float, now: float) -> None:
        """Tell of a loop that stood still unseen by the thread: with the whole process, or by another clock."""
        late = now - due
        self._catch_up()
        was_kept = self._kept > time.monotonic() - late  # the thread names the line, when it has its turn
        if late > self._lease / 3 and self._keeper.block[0] < due and not was_kept:
            text = f"the event loop stood still for {late:.1f} s"
            log.warning("%s; leases last %g s. Was this process or its machine suspended?", text, self._lease)
            self._keeper.block = now, text
            self._events.emit("loop.blocked", seconds=late, where="")

    # ── in the thread ──

    def _watch(self) -> None:
        """Look a few times per second; extend while there is need."""
        while not self._stop.is_set():
            asleep = time.monotonic()
            self._stop.wait(self._tick)
            try:
                self._beat()
                self._look(time.monotonic() - asleep - self._tick)
                if self._overdue(self._lease / (3 if self._where else 2)):
                    anyio.run(self._extend_for_a_while, backend="asyncio")
            except Exception as error:  # noqa: BLE001 - the broker is away, and for the loop too; or it is a defect
                log.log(10 if self._failed else 30, "leases cannot be extended beside the event loop: %r", error)
                self._failed = True

    def _look(self, overslept: float) -> None:
        """Ask the loop for a sign of life, and see for how long it owes the last one.

        :param overslept: seconds for which this thread got no turn: then the whole process stood still.
        """
        asked, now = self._asked, time.monotonic()
        stopped = overslept > self._tick  # this thread had no turn: C code kept the GIL, or all stood still
        if stopped and not blocking_place(self._loop_thread):
            stopped = self._process.kept > now - overslept
            if asked is not None and not stopped:
                self._asked = now
                return
        if asked is None:
            if self._keeper.executions:
                self._asked = asked = now - overslept if stopped else now
                self._call_soon(self._answer)
            if not stopped:
                return
        blocked = now - (asked or now)
        if blocked > self._notice and not self._where:
            self._where = (holding_place if stopped else blocking_place)(self._loop_thread)
            if self._where:
                log.warning(
                    "loop blocked for %.1f s in %s; leases are kept meanwhile, for up to %g s. Run what computes in a "
                    'thread or a process: @app.task(runs_in="process")',
                    blocked,
                    self._where,
                    self._max_block,
                )
        if blocked > self._max_block and not self._gave_up:
            self._gave_up = True
            log.error(
                "loop blocked for %.1f s in %s, longer than max_block=%g s: the leases of %d jobs are let go, and "
                "other workers get them",
                blocked,
                self._where or "unknown code",
                self._max_block,
                len(self._keeper.executions),
            )

    def _beat(self) -> None:
        """Tell the keeper process that threads run here; learn what it has done when they did not."""
        self._catch_up()
        now, jobs, keeper = time.monotonic(), self._snapshot(), self._keeper
        extended = keeper.extended
        ends = min((max(job.received, extended.get(job.source, 0.0)) for job in jobs), default=0.0)
        until = ends + self._lease + now - self._now() if jobs else 0.0
        self._process.beat(self._asked or now, until)

    def _catch_up(self) -> None:
        """Note which leases the keeper process has extended, in the loop or in the thread, whichever is first."""
        kept, keeper = self._process.kept, self._keeper
        if kept <= self._kept:
            return
        self._kept = kept
        at = self._now() - (time.monotonic() - kept)
        held: HeldJobs = {}
        for job in self._snapshot():
            if job.state < STARTED_ACKED and job.received <= at and keeper.extended.get(job.source, 0.0) < at:
                held.setdefault(job.source, []).append(job)
        for source, jobs in held.items():
            inner = innermost(source)
            if isinstance(inner, IssuesTickets):
                inner.extended([job.delivery for job in jobs if inner.ticket(job.delivery) is not None], at)
            keeper.extended[source] = at
        keeper.renewed = max(keeper.renewed, at)

    def _overdue(self, age: float) -> HeldJobs:
        """Find the sources of jobs that were not extended for so long, and all that is held of them."""
        keeper, now = self._keeper, self._now()
        found: HeldJobs = {}
        late: set[Source] = set()
        if self._gave_up or not isinstance(self._backend, LendsExtenders):
            return found
        silent = self._is_silent(self._backend.silence)
        for job in self._snapshot():
            leased = job.state < STARTED_ACKED
            if not keeper.holds(job, now) or not (leased or (job.key is not None and self._renews)):
                continue
            found.setdefault(job.source, []).append(job)
            last = keeper.extended.get(job.source, 0.0) if leased else keeper.renewed
            if silent or now - max(job.received, last) > age:
                late.add(job.source)
        return {source: jobs for source, jobs in found.items() if source in late}

    def _is_silent(self, silence: float | None) -> bool:
        """Tell whether the loop has said nothing to the broker for a part of the time after which that counts."""
        if silence is None or self._asked is None:
            return False
        return time.monotonic() - max(self._asked, self._extended) > silence / LOOKS_BEFORE_NOTICE

    def _snapshot(self) -> list[Execution]:
        while True:
            try:
                return list(self._keeper.executions)
            except RuntimeError:  # the loop has changed the set meanwhile
                continue

    def _now(self) -> float:
        """Return the time of the event loop's clock, as far as another thread can tell."""
        clock, monotonic = self._at
        return clock + time.monotonic() - monotonic

    async def _extend_for_a_while(self) -> None:
        """Connect, and extend until the loop does that again."""
        backend, store = self._backend, self._store
        async with AsyncExitStack() as opened:
            extender = keys = None
            if isinstance(backend, LendsExtenders):
                extender = await opened.enter_async_context(backend.extender(lease=self._lease))
            if isinstance(store, MadeOfURL):
                second: Any = type(store)(store.url)  # type: ignore[call-arg]
                keys = IdempotencyKeys(await opened.enter_async_context(second))
            needed = time.monotonic()
            beating = await opened.enter_async_context(anyio.create_task_group())
            beating.start_soon(self._beat_meanwhile)
            while not self._stop.is_set() and time.monotonic() - needed < self._lease / 2:
                for source, jobs in self._overdue(self._lease / 3).items():
                    needed = time.monotonic()
                    await self._extend(_Extending(extender, keys), source, jobs)
                await anyio.sleep(self._tick)
            beating.cancel_scope.cancel()

    async def _beat_meanwhile(self) -> None:
        """Look as before, also while a broker does not answer."""
        while True:
            asleep = time.monotonic()
            await anyio.sleep(self._tick)
            self._beat()
            self._look(time.monotonic() - asleep - self._tick)

    async def _extend(self, by: _Extending, source: Source, jobs: list[Execution]) -> None:
        """Extend what is held of one source: first the leases, then the keys."""
        keeper, asked = self._keeper, self._now()
        self._extended = time.monotonic()
        inner = innermost(source)
        if by.extender is not None and isinstance(inner, IssuesTickets):
            leased = [job.delivery for job in jobs if job.state < STARTED_ACKED]
            held = [(each, ticket) for each in leased if (ticket := inner.ticket(each)) is not None]
            lost = set(await by.extender.extend([ticket for _, ticket in held]))
            inner.extended([each for each, ticket in held if ticket not in lost], asked)
            keeper.extended[source] = asked
        if by.keys is not None:
            await by.keys.renew_many(keeper.held_keys(), keeper.clock() + self._lease)
            keeper.renewed = asked


def _ways_into_this_loop() -> tuple[Callable[[Callable[[], None]], Any], Callable[[], float]]:
    """Return what calls a function in the loop that runs here, from any thread, and the loop's clock."""
    loop: Any = current_token().native_token
    if hasattr(loop, "call_soon_threadsafe"):
        return loop.call_soon_threadsafe, loop.time
    import trio  # noqa: PLC0415 - it runs here

    return loop.run_sync_soon, trio.current_time
