"""The ceiling: what a bare loop over the client library reaches, without any of our features."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from taskcore.bench import Figure
from taskcore.bench.proc import UsageWatch

PAYLOAD = b"x" * 200
PILOT = 1_000


class Raw(Protocol):
    """One broker's client library, used as fast as we know how. Each verb says how many seconds it took."""

    how: str
    verbs: tuple[str, ...]  #: those of the three that mean something here

    async def open(self) -> None:
        """Connect."""
        ...

    async def close(self) -> None:
        """Leave nothing behind."""
        ...

    async def one(self, jobs: int) -> float:
        """Publish, one after another, each confirmed before the next."""
        ...

    async def bulk(self, jobs: int) -> float:
        """Publish as many at once as is fastest, all confirmed."""
        ...

    async def drain(self, jobs: int) -> float:
        """Publish (not measured), then read and acknowledge all of them."""
        ...


FIGURES = {"enqueue": (("one awaited", "one"), ("bulk", "bulk")), "drain": (("1 process", "drain"),)}


async def measure_raw(
    raw: Raw, broker: str, scenario: str, *, seconds: float, broker_cpu: Callable[[], float | None] = lambda: None
) -> list[Figure]:
    """Measure the ceiling of one scenario, once. Publishing has its CPU beside it; a drain has published before."""
    await raw.open()
    try:
        found = []
        for name, verb in FIGURES[scenario]:
            if verb in raw.verbs:
                rate, facts = await _rate(getattr(raw, verb), seconds, broker_cpu)
                facts = {} if verb == "drain" else facts
                found.append(
                    Figure(
                        broker=broker, who="raw client", scenario=scenario, name=name, unit="jobs/s", values=(rate,),
                        facts=facts,
                    )
                )  # fmt: skip
        return found
    finally:
        await raw.close()


async def _rate(
    verb: Callable[[int], Awaitable[float]], seconds: float, broker_cpu: Callable[[], float | None]
) -> tuple[float, dict[str, float]]:
    rate = PILOT / await verb(PILOT)
    jobs = max(int(rate * seconds) // PILOT, 1) * PILOT
    watch = UsageWatch(broker_cpu)
    took = await verb(jobs)
    return jobs / took, watch.stop(jobs)[1]
