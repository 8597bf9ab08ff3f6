"""Who takes part on one broker: each can measure one scenario once, and leaves the broker as it found it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import anyio.to_thread
import msgspec

from benchmarks.compare.peers import PARTS, Effort, Home, Measured, Peer, PeerFailed
from benchmarks.compare.raw import FIGURES, Raw, measure_raw
from benchmarks.compare.run import RAW, US
from benchmarks.compare.sweeping import sweep
from taskcore.bench import BenchEnvironment, Figure, Size, Skipped, limit_of, measure_one
from taskcore.bench.scenarios import BenchScenario
from taskcore.faults import Server

__all__ = ["Bare", "Contender", "Other", "Ours", "raw_of"]

Records = list[Figure | Skipped]


class Contender(ABC):
    """A contestant on one broker.

    :param scenarios: what can be measured of it.
    """

    def __init__(self, who: str, broker: str, scenarios: list[str]) -> None:
        self.who = who
        self.broker = broker
        self.scenarios = scenarios

    @abstractmethod
    async def measure(self, scenario: str) -> Records:
        """Measure one turn of a scenario: its figures, or why there are none."""

    def skipped(self, scenario: str, why: str) -> Skipped:
        """Return the record of something that was not measured."""
        return Skipped(broker=self.broker, who=self.who, scenario=scenario, why=why)


class Bare(Contender):
    """The client library alone."""

    def __init__(self, broker: str, raw: Raw, size: Size, broker_cpu: Callable[[], float | None]) -> None:
        has = [name for name, figures in FIGURES.items() if any(verb in raw.verbs for _, verb in figures)]
        super().__init__(RAW, broker, has)
        self._raw, self._size, self._broker_cpu = raw, size, broker_cpu

    async def measure(self, scenario: str) -> Records:
        """See :class:`Contender`."""
        return list(
            await measure_raw(self._raw, self.broker, scenario, seconds=self._size.seconds, broker_cpu=self._broker_cpu)
        )


class Ours(Contender):
    """taskcore."""

    def __init__(self, environment: BenchEnvironment, scenarios: Mapping[str, BenchScenario]) -> None:
        super().__init__(US, environment.broker, list(scenarios))
        self._environment, self._scenarios = environment, scenarios

    async def measure(self, scenario: str) -> Records:
        """See :class:`Contender`."""
        return await measure_one(self._environment, scenario, self._scenarios[scenario])


class Other(Contender):
    """A peer, in an environment of its own."""

    def __init__(
        self, peer: Peer, home: Home, *, broker: str, server: Server, results_url: str, size: Size,
        broker_cpu: Callable[[], float | None],
    ) -> None:  # fmt: skip
        super().__init__(peer.name, broker, list(PARTS))
        effort = Effort(1, size.seconds, size.arrivals[:SHARED], size.lease)
        self._measured = Measured(
            peer, home, broker, server.url, results_url=results_url, effort=effort, broker_cpu=broker_cpu
        )
        self._server = server

    async def measure(self, scenario: str) -> Records:
        """See :class:`Contender`."""
        try:
            found = await anyio.to_thread.run_sync(lambda: self._measured.part(scenario, within=limit_of(scenario)))
        except PeerFailed as error:
            return [self.skipped(scenario, f"failed: {error}")]
        finally:
            await sweep(self.broker, self._server, self._measured.queues)
            self._measured.queues.clear()
        return [msgspec.convert(each, Figure) for each in found] or [self.skipped(scenario, "it has no such feature")]


SHARED = 2  #: how many of our arrival rates peers have to bear, too: the highest is above what some of them can do


def raw_of(broker: str, url: str) -> Raw:
    """Return the bare loop for a broker; its module is imported here, because each needs a client library."""
    if broker == "memory":
        from benchmarks.compare.raw_memory import RawMemory

        return RawMemory(url)
    if broker == "redis":
        from benchmarks.compare.raw_redis import RawRedis

        return RawRedis(url)
    if broker == "nats":
        from benchmarks.compare.raw_nats import RawNats

        return RawNats(url)
    from benchmarks.compare.raw_rabbitmq import RawRabbit

    return RawRabbit(url)
