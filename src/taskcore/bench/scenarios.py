"""The list of scenarios, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeAlias

from taskcore.bench import costs, draining, enqueueing, latency, recovery
from taskcore.bench.environment import BenchEnvironment
from taskcore.bench.figures import Figure

__all__ = ["SCENARIOS", "BenchScenario", "chosen", "limit_of"]

BenchScenario: TypeAlias = Callable[[BenchEnvironment], Awaitable[list[Figure]]]

SCENARIOS: Mapping[str, BenchScenario] = {
    "enqueue": enqueueing.enqueueing,
    "drain": draining.draining,
    "latency": latency.open_loop,
    "results": latency.results,
    "payloads": enqueueing.payloads,
    "scheduled": latency.scheduled,
    "retries": draining.retry_storm,
    "keys": enqueueing.keys,
    "worker killed": recovery.worker_killed,
    "broker killed": recovery.broker_killed,
    "idle": costs.idling,
    "storage": costs.storage,
    "backlog": draining.backlog,
}


SCENARIO_TIMEOUT = 120.0  #: seconds that a scenario may take on one broker, for one round
LIMITS: Mapping[str, float] = {"drain": 300.0, "backlog": 600.0}


def limit_of(scenario: str, rounds: int = 1) -> float:
    """Return the seconds after which a scenario is ended as not done: far more than it takes where all is well."""
    return LIMITS.get(scenario, SCENARIO_TIMEOUT) * max(rounds, 1)


def chosen(names: Sequence[str], *, backlog: int) -> dict[str, BenchScenario]:
    """Return the scenarios of these names, or parts of names; all of them if there are none.

    :raises LookupError: a name fits none of them.
    """
    wanted = {name.replace("-", " ").lower() for name in names}
    for name in wanted:
        if not any(name in known for known in SCENARIOS):
            raise LookupError(f'no scenario is called "{name}"; there are: {", ".join(SCENARIOS)}')
    fits = {known: run for known, run in SCENARIOS.items() if not wanted or any(name in known for name in wanted)}
    if not backlog:
        fits.pop("backlog", None)
    return fits
