"""How full the queues are, as findings of ``taskcore doctor``: depth, age of the oldest job, dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

import anyio
import msgspec

from taskcore.backend import Backend, QueueStats
from taskcore.cli.findings import Finding
from taskcore.records.parked import count_parked
from taskcore.store import Store
from taskcore.toolkit.units import show_duration

__all__ = ["queue_findings"]

QUEUES_SHOWN = 20  #: a line each; the others share one
COUNTED_AT_ONCE = 100  #: queues that one question is about
ASK_FOR = 10.0  #: seconds for which queues are counted
IS_OLD = 60.0  #: seconds that a job may be ready while no job of its queue runs


async def queue_findings(backend: Backend, store: Store | None, wanted: Iterable[str]) -> list[Finding]:
    """Count the jobs of each queue.

    :param wanted: the queues of an app, which may not exist yet.
    :raises BrokerUnavailable: the broker cannot be reached.
    """
    names = list(dict.fromkeys([*wanted, *sorted(await backend.admin.queues())]))
    found: dict[str, QueueStats] = {}
    with anyio.move_on_after(ASK_FOR):
        for start in range(0, len(names), COUNTED_AT_ONCE):
            some = names[start : start + COUNTED_AT_ONCE]
            for name, stats in zip(some, await backend.admin.stats(some), strict=True):
                parked = await count_parked(store, name, time.time()) if store is not None and stats.scheduled else 0
                found[name] = msgspec.structs.replace(stats, parked=min(parked, stats.scheduled or 0))
    return [*_lines(found), *_not_counted(len(names) - len(found))]


def _lines(found: Mapping[str, QueueStats]) -> Iterator[Finding]:
    if not found:
        yield Finding(level="ok", name="queues", text="there is no queue yet")
    fullest = sorted(found, key=lambda name: (-found[name].dead, -(found[name].oldest or 0), -found[name].ready))
    shown = set(fullest[:QUEUES_SHOWN])
    for name, stats in found.items():
        if name in shown:
            fix, text = "; ".join(_advice(stats)), _counts(stats)
            yield Finding(level="warn" if fix else "ok", name=f"queue {name}", text=text, fix=fix)
    if others := [stats for name, stats in found.items() if name not in shown]:
        text = f"{len(others)} more: {_counts(_sum(others))}"
        yield Finding(level="ok", name="queues", text=text)


def _not_counted(number: int) -> Iterator[Finding]:
    if number:
        text = f"{number} more queues were not counted within {ASK_FOR:g} s"
        yield Finding(level="warn", name="queues", text=text)


def _counts(stats: QueueStats) -> str:
    age = "" if stats.oldest is None else f" (oldest {show_duration(round(stats.oldest))})"
    parked = f" ({stats.parked:,} parked)" if stats.parked else ""
    is_counted = stats.scheduled is not None
    scheduled = f"{stats.scheduled:,} scheduled{parked}" if is_counted else "scheduled ones are not counted"
    running = [f"{stats.leased:,} running"] if is_counted else []
    return " · ".join((f"{stats.ready:,} ready{age}", *running, scheduled, f"{stats.dead:,} dead"))


def _advice(stats: QueueStats) -> Iterator[str]:
    if stats.dead:
        yield "read the dead letters (app.dead_letters), then replay or drop them"
    if stats.parked:
        yield "start a worker that knows the tasks of the parked jobs"
    if stats.oldest is not None and stats.oldest > IS_OLD and not stats.leased:
        yield "is a worker listening to this queue?"


def _sum(some: Sequence[QueueStats]) -> QueueStats:
    ages = [stats.oldest for stats in some if stats.oldest is not None]
    return QueueStats(
        ready=sum(stats.ready for stats in some),
        leased=_sum_known([stats.leased for stats in some]),
        scheduled=_sum_known([stats.scheduled for stats in some]),
        dead=sum(stats.dead for stats in some),
        oldest=max(ages, default=None),
        parked=sum(stats.parked or 0 for stats in some),
    )


def _sum_known(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
