"""The app of all programs of a run: its settings, its lifespan, its schedule and its hook.

Everything that a worker process does beside its jobs is written down here: that it entered and left its lifespan, how
large it is, which dead letters it was told of.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import msgspec

from benchmarks.soak.kinds import LEASE, queue_of
from benchmarks.soak.ledger import WHO, Ledger, from_environment, note
from benchmarks.soak.tasks import router
from taskcore import App, BuriedJob, Retry

__all__ = ["CODE", "HEARTBEAT", "SCHEDULE", "SPEC", "Spec", "make_app", "size_of"]

RETRY = Retry(attempts=5, base=0.2, cap=1.0)
HEARTBEAT = 1.0  #: seconds between two records of a worker in the roster
SCHEDULE = "each-second"
MISSED = 1_000  #: instants that fire later, at most: a node of RabbitMQ may take minutes to start on a busy machine
SPEC = "SOAK_SPEC"  #: a variable with the spec of a process
CODE = "SOAK_CODE"  #: a variable: the number of the code that a reloaded process has imported
SAMPLE_EACH = 2.0  #: seconds between two looks at the size of a process


class Spec(msgspec.Struct, frozen=True):
    """Where a child works, and how.

    :param by_default: the app names no lease; ``lease`` is the library's then.
    """

    url: str
    store: str | None
    queue: str
    seed: int
    keep: float
    lease: float = LEASE
    by_default: bool = False

    @property
    def grace(self) -> float:
        """Seconds that a stopping worker gives its jobs: so many that a blocked loop fits in with the last resort."""
        return 2.0 if self.lease < 10.0 else 10.0


def make_app(spec: Spec) -> App:
    """Make the app of a worker or of a sender."""
    app = App(
        spec.url,
        store=spec.store,
        retry=RETRY,
        lease=None if spec.by_default else spec.lease,
        heartbeat=HEARTBEAT,
        concurrency=16,
        threads=4,
        processes=1,
        grace=spec.grace,
        send_timeout=5.0,
        keep_result=spec.keep,
        key_window=spec.keep,
        lifespan=lifespan,
    )
    app.include(router)
    app.on_dead_letter(tell)
    scheduled = router.tasks["tick"].using(queue=queue_of("tick", spec.queue)).call()
    app.schedule(SCHEDULE, every="1s", missed="all", limit=MISSED, overlap="allow")(scheduled)
    return app


@asynccontextmanager
async def lifespan(_: App) -> AsyncIterator[None]:
    """Note that a worker process begins and ends; give it a name of its own for all that it notes."""
    os.environ[WHO] = f"{os.environ[WHO].partition('/')[0]}/{os.getpid()}"
    ledger = from_environment()
    ledger.write("entered", pid=os.getpid(), code=os.environ.get(CODE, ""))
    async with anyio.create_task_group() as group:
        group.start_soon(_sample, ledger)
        try:
            yield
        finally:
            group.cancel_scope.cancel()
            ledger.write("left", pid=os.getpid())


def tell(job: BuriedJob) -> None:
    """Note that the worker was told of a dead letter."""
    note("told", job.job_id, reason=job.reason)


async def _sample(ledger: Ledger) -> None:
    while True:
        ledger.write("size", **size_of(os.getpid()), tasks=len(asyncio.all_tasks()))
        await anyio.sleep(SAMPLE_EACH)


def size_of(pid: int) -> dict[str, int]:
    """Tell the bytes of memory and the descriptors of a process; nothing of one that has ended."""
    place = Path(f"/proc/{pid}")
    with suppress(OSError, IndexError):
        memory = int((place / "statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return {"memory": memory, "descriptors": len(list((place / "fd").iterdir()))}
    return {}
