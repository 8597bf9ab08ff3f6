"""One run: the environments one after another, the scenarios on each; every result is reported at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

import anyio

from taskcore.bench.environment import BenchEnvironment, NotHere
from taskcore.bench.figures import Figure, Skipped
from taskcore.bench.scenarios import BenchScenario, limit_of
from taskcore.errors import BrokerUnavailable, FeatureRefused
from taskcore.toolkit.logging import logger

__all__ = ["OnRecord", "ProgressDisplay", "measure", "measure_on", "measure_one", "plain", "show"]


OnRecord: TypeAlias = Callable[[Figure | Skipped], None]

log = logger("taskcore.bench")

CLEANUP_TIMEOUT = 30.0  #: seconds that deleting the queues of a scenario may take


class ProgressDisplay(Protocol):
    """A receiver of progress."""

    def begins(self, broker: str, scenario: str, done: int, all: int) -> None:
        """Show that a scenario begins."""
        ...

    def ends(self, broker: str, scenario: str, seconds: float, outcome: str) -> None:
        """Show that it has ended; the outcome is a text in a few words."""
        ...


async def measure(
    environments: Mapping[str, Callable[[], AbstractAsyncContextManager[BenchEnvironment]]],
    scenarios: Mapping[str, BenchScenario],
    progress: ProgressDisplay,
    on_record: OnRecord,
) -> None:
    """Measure everything, one broker after another.

    :raises BrokerUnavailable: a broker that is not ours cannot be reached.
    """
    everything = len(environments) * len(scenarios)
    for number, (broker, opened) in enumerate(environments.items()):
        try:
            async with opened() as environment:
                await measure_on(
                    environment, scenarios, progress, on_record, done=number * len(scenarios), all=everything
                )
        except NotHere as error:
            progress.ends(broker, "all", 0.0, f"skipped: {plain(error)}")
            on_record(Skipped(broker=broker, who="taskcore", scenario="all", why=plain(error)))


async def measure_on(
    environment: BenchEnvironment,
    scenarios: Mapping[str, BenchScenario],
    progress: ProgressDisplay,
    on_record: OnRecord,
    *,
    done: int,
    all: int,
) -> None:
    """Measure all scenarios on one broker.

    :param on_record: called with each record as soon as it is there.
    :param done: how many scenarios are done already, and how many there are in ``all``.
    """
    for number, (name, scenario) in enumerate(scenarios.items()):
        progress.begins(environment.broker, name, done + number, all)
        start = time.monotonic()
        records = await measure_one(environment, name, scenario)
        progress.ends(environment.broker, name, time.monotonic() - start, _outcome(records))
        for record in records:
            on_record(record)


async def measure_one(
    environment: BenchEnvironment, name: str, scenario: BenchScenario, *, within: float | None = None
) -> list[Figure | Skipped]:
    """Run one scenario. A failure in it is a finding, reported in its place; the next ones are measured all the same.

    :param within: seconds that it may take; it is ended when they are over. By default what :func:`limit_of` says.
    """
    records: list[Figure | Skipped] = []
    limit = limit_of(name, environment.size.rounds) if within is None else within
    try:
        records += await _within(limit, scenario, environment)
    except (NotHere, FeatureRefused) as error:
        records.append(Skipped(broker=environment.broker, who="taskcore", scenario=name, why=plain(error)))
    except Exception as error:
        if isinstance(error, BrokerUnavailable) and environment.server is None:
            raise
        log.exception("%s on %s failed; the next scenario goes on", name, environment.broker)
        records.append(Skipped(broker=environment.broker, who="taskcore", scenario=name, why=f"failed: {plain(error)}"))
        if environment.server is not None:
            await environment.server.start()  # it may have been killed in the middle
    with anyio.move_on_after(CLEANUP_TIMEOUT) as scope:
        await environment.clean_up()
    if scope.cancelled_caught:
        log.warning("%s on %s: its queues could not be deleted within %g s", name, environment.broker, CLEANUP_TIMEOUT)
    return records


async def _within(limit: float, scenario: BenchScenario, environment: BenchEnvironment) -> list[Figure]:
    with anyio.move_on_after(limit):
        return await scenario(environment)
    raise TimeoutError(f"it was not done after {limit:g} s, and was ended")


def plain(error: BaseException) -> str:
    """Return the first line of an error, without its code."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text.partition("] ")[2] if text.startswith("[TC") else text


def _outcome(records: list[Figure | Skipped]) -> str:
    for record in records:
        if isinstance(record, Skipped):
            return f"{'' if record.why.startswith('failed') else 'skipped: '}{record.why}"
    figures = [record for record in records if isinstance(record, Figure)]
    return "; ".join(f"{figure.name} {show(figure.median)} {figure.unit}" for figure in figures[:3])


WHOLE_FROM = 1_000  #: values from here on are shown without a fraction


def show(value: float) -> str:
    """Write a number with three digits that mean something."""
    if value >= WHOLE_FROM:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:.3g}"
