"""A sweep whose crashes are real: the operation runs in a process of its own, which ends at the crash point.

    run(case, lambda: Stage.at(url), real_time=True, dying=dying(url, ledger), ledger=Ledger(path))

The process is started as ``python -m taskcore.testing.sweep.child`` with the case as JSON; it connects by URL, does the
operation with the point armed, and its exit status says whether it died there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from taskcore.app import App
from taskcore.testing.crashing import CRASHED, exit_at
from taskcore.testing.sweep.drill import Drill
from taskcore.testing.sweep.ground import KEEP, Ledger
from taskcore.testing.sweep.plan import Case, Dying

__all__ = ["Orders", "dying", "follow"]


class Orders(msgspec.Struct, frozen=True):
    """Everything that the process has to know."""

    url: str
    store: str | None
    case: Case
    queue: str
    mark: str
    lease: float
    margin: float
    ledger: str
    key: str | None = None
    letter: str | None = None
    acts: tuple[str, ...] = ()


def dying(url: str, ledger: Path, *, store: str | None = None, timeout: float = 60.0) -> Dying:
    """How a case dies for real. ``ledger`` is the file in which all processes write their starts."""

    async def die(drill: Drill, case: Case) -> bool:
        orders = Orders(
            url=url,
            store=store,
            case=case,
            queue=drill.queue,
            mark=drill.mark,
            lease=drill.lease,
            margin=drill.margin,
            ledger=str(ledger),
            key=drill.key,
            letter=drill.letter,
            acts=tuple(drill.acts),
        )
        drill.prepare(case.operation)
        return await anyio.to_thread.run_sync(follow, orders, timeout) == CRASHED

    return die


def follow(orders: Orders, timeout: float = 60.0) -> int:
    """Start a process that follows the orders; its exit status, which is CRASHED if it died where it should."""
    command = [sys.executable, "-m", "taskcore.testing.sweep.child", msgspec.json.encode(orders).decode()]
    return subprocess.run(command, timeout=timeout, check=False).returncode  # noqa: S603 - our own program


async def _operate(orders: Orders) -> None:
    app = App(orders.url, store=orders.store, lease=orders.lease, keep_result=KEEP)
    async with app:
        ledger = Ledger(Path(orders.ledger))
        drill = Drill(app, orders.queue, ledger, mark=orders.mark, lease=orders.lease, margin=orders.margin)
        drill.key, drill.letter, drill.acts = orders.key, orders.letter, list(orders.acts)
        with exit_at(orders.case.point, visit=orders.case.visit):
            await drill.operate(orders.case.operation)


if __name__ == "__main__":
    anyio.run(_operate, msgspec.json.decode(sys.argv[1], type=Orders))
