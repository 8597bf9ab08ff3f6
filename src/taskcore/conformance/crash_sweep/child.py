"""A sweep whose crashes are real: the operation runs in a process of its own, which ends at the crash point.

    run(case, lambda: Harness.at(url), real_time=True, dying=dying(url, starts), starts=StartLog(path))

The process is started as ``python -m taskcore.conformance.crash_sweep.child`` with the case as JSON. It connects by
URL and does the operation with the point armed; its exit status says whether it died there. What it did until then is
in its history file, which becomes part of the scenario's history.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import anyio.to_thread
import msgspec

from taskcore.adapters import has_store, open_backend
from taskcore.app import App
from taskcore.conformance.checking import History, RecordingBackend
from taskcore.conformance.crash_sweep.environment import KEEP_RESULT, StartLog
from taskcore.conformance.crash_sweep.scenario import Scenario
from taskcore.conformance.crash_sweep.sweep import Case, Dying
from taskcore.faults.crash import HISTORY, WHO, history_from_environment
from taskcore.testing.crash_points import CRASHED, exit_at

__all__ = ["CaseOrders", "dying", "run_child"]


class CaseOrders(msgspec.Struct, frozen=True):
    """Everything that the process has to know."""

    url: str
    store: str | None
    case: Case
    queue: str
    mark: str
    lease: float
    margin: float
    starts: str
    key: str | None = None
    letter: str | None = None
    acts: tuple[str, ...] = ()


def dying(url: str, starts: Path, *, store: str | None = None, timeout: float = 60.0) -> Dying:
    """Run a case that dies for real. ``starts`` is the file in which all processes write their starts."""

    async def die(scenario: Scenario, case: Case) -> bool:
        orders = CaseOrders(
            url=url,
            store=store,
            case=case,
            queue=scenario.queue,
            mark=scenario.mark,
            lease=scenario.lease,
            margin=scenario.margin,
            starts=str(starts),
            key=scenario.key,
            letter=scenario.letter,
            acts=tuple(scenario.acts),
        )
        scenario.prepare(case.operation)
        who = scenario.actors.enter("child")
        with TemporaryDirectory(prefix="taskcore-sweep-") as folder:
            file = Path(folder) / "history.jsonl"
            status = await anyio.to_thread.run_sync(partial(run_child, orders, timeout, history=file, who=who))
            entries = History.load([file]).entries
        scenario.history.extend(entries)
        for name in sorted({who} | {entry.who for entry in entries}):
            scenario.actors.record_death(name)
        return status == CRASHED

    return die


def run_child(orders: CaseOrders, timeout: float = 60.0, *, history: Path | None = None, who: str = "child") -> int:
    """Start a process that follows the orders; its exit status, which is CRASHED if it died where it should.

    :param history: the file in which it writes what it does; None: nowhere.
    :param who: how the names begin of those who act there.
    """
    command = [sys.executable, "-m", "taskcore.conformance.crash_sweep.child"]
    text = msgspec.json.encode(orders)  # not in the command line, which every user can read: URLs have passwords
    environment = {**os.environ, WHO: who} | ({} if history is None else {HISTORY: str(history)})
    return subprocess.run(command, input=text, timeout=timeout, check=False, env=environment).returncode  # noqa: S603 - our own


async def _operate(orders: CaseOrders) -> None:
    history = history_from_environment()
    records = orders.store or (orders.url if has_store(orders.url) else "none")
    app = App(
        RecordingBackend(open_backend(orders.url), history), store=records, lease=orders.lease, keep_result=KEEP_RESULT
    )
    async with app:
        scenario = Scenario(
            app,
            orders.queue,
            StartLog(Path(orders.starts)),
            mark=orders.mark,
            lease=orders.lease,
            margin=orders.margin,
            history=history,
            prefix=f"{history.who}.",
        )
        scenario.key, scenario.letter, scenario.acts = orders.key, orders.letter, list(orders.acts)
        with exit_at(orders.case.point, visit=orders.case.visit):
            await scenario.operate(orders.case.operation)


if __name__ == "__main__":
    anyio.run(_operate, msgspec.json.decode(sys.stdin.buffer.read(), type=CaseOrders))
