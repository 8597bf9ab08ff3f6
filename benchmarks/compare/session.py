"""One run: for each broker a private server, and on it all contestants in turns, so neighbours in time are compared."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import msgspec

from benchmarks.compare.contenders import Bare, Contender, Other, Ours, raw_of
from benchmarks.compare.limited import LeftBehind, Limited
from benchmarks.compare.peers import PARTS, Installed
from benchmarks.compare.raw import FIGURES
from benchmarks.compare.run import RAW, US
from benchmarks.compare.turns import GUESSED, Turn, Turns, guess, share, wanted
from taskcore.bench import (
    BROKERS,
    BenchRecord,
    Contestant,
    Figure,
    NotHere,
    ProgressDisplay,
    Size,
    Skipped,
    environment_on,
    limit_of,
    plain,
    private_server,
    show,
)
from taskcore.bench.proc import cpu_of, has_proc
from taskcore.bench.scenarios import BenchScenario
from taskcore.faults import PostgresServer, RedisServer, Server, ServerMissing

__all__ = ["Plan", "Session"]

EXTRA_SECONDS = 60.0  #: seconds beyond a scenario's own limit, for a contestant that does not keep it
OnRecord = Callable[[BenchRecord], None]


class Plan(NamedTuple):
    """What is to be measured.

    :param until: when it has to be over, by ``time.monotonic()``.
    """

    brokers: list[str]
    scenarios: Mapping[str, BenchScenario]
    size: Size
    rounds: int
    installed: Installed
    until: float = math.inf


class Session:
    """One run.

    :param limited: what a scenario runs in.
    """

    def __init__(self, plan: Plan, limited: Limited, progress: ProgressDisplay, on_record: OnRecord) -> None:
        self._plan = plan
        self._limited = limited
        self._progress = progress
        self._on_record = on_record
        self._began = time.monotonic()
        self._done = 0
        self.versions: dict[str, str] = {}

    async def run(self) -> None:
        """Measure everything."""
        brokers = self._plan.brokers
        weights = [sum(self._guesses(broker).values()) for broker in brokers]
        for index, broker in enumerate(brokers):
            now = time.monotonic()
            until = now + share(self._plan.until - now, weights[index:]) if self._plan.until < math.inf else math.inf
            try:
                async with _server(broker) as server:
                    if server is not None:
                        self.versions[server.program] = server.version
                    self._on_record(_server_settings(broker, server))
                    await self._on(broker, server, until)
            except NotHere as error:
                self._progress.ends(broker, "all", 0.0, f"skipped: {plain(error)}")
                self._on_record(Skipped(broker=broker, who="all", scenario="all", why=plain(error)))

    def _guesses(self, broker: str) -> dict[str, float]:
        """Guess scenario → seconds that one turn of all contestants may take on this broker."""
        known = broker in BROKERS
        scenarios = [name for name in GUESSED if name in self._plan.scenarios and (known or name in PARTS)]
        peers = len(self._plan.installed.on(broker))
        return {name: guess(name, peers=peers, raw=known, ours=known) for name in scenarios}

    async def _on(self, broker: str, server: Server | None, until: float) -> None:
        async with AsyncExitStack() as exits:
            contenders = await self._contenders(broker, server, exits)
            if not contenders:
                self._on_record(
                    Skipped(broker=broker, who="all", scenario="all", why="no contestant knows this broker")
                )
                return
            turns = Turns(self._guesses(broker), self._plan.rounds, until)
            while (turn := turns.next(start := time.monotonic())) is not None:
                for contender in contenders:
                    if turn.scenario in contender.scenarios:
                        await self._turn(contender, server, turn)
                turns.took(turn, time.monotonic() - start)
                if not any(turn.scenario in contender.scenarios for contender in contenders):
                    turns.end(turn.scenario)
        left: dict[str, list[str]] = {}
        for scenario, (done, rounds) in turns.left.items():
            left.setdefault(f"after {done} of {rounds} rounds" if done else "altogether", []).append(scenario)
        for times, names in left.items():
            why = f"left out {times}: the time was over"
            self._on_record(Skipped(broker=broker, who="all", scenario=", ".join(names), why=why))

    async def _contenders(self, broker: str, server: Server | None, exits: AsyncExitStack) -> list[Contender]:
        """Open the raw client, taskcore and the peers, in this order."""
        found: list[Contender] = []
        plan = self._plan

        def broker_cpu() -> float | None:
            return cpu_of(server.pid) if server is not None and server.running and has_proc() else None

        if broker in BROKERS:
            try:
                raw = raw_of(broker, "" if server is None else server.url)
            except ModuleNotFoundError as error:
                self._on_record(Skipped(broker=broker, who=RAW, scenario="all", why=f"{error.name} is not installed"))
            else:
                self._on_record(Contestant(who=f"{RAW}, {broker}", version="", settings=raw.how))
                found.append(Bare(broker, raw, plan.size, broker_cpu))
            try:
                environment = await exits.enter_async_context(environment_on(broker, server, plan.size))
            except NotHere as error:
                self._on_record(Skipped(broker=broker, who=US, scenario="all", why=plain(error)))
            else:
                found.append(Ours(environment, plan.scenarios))
        else:
            why = "it has no adapter for this broker: the peers stand beside each other here"
            self._on_record(Skipped(broker=broker, who=US, scenario="all", why=why))
        peers = plan.installed.on(broker)
        if server is not None and peers:
            results_url = await exits.enter_async_context(_results(broker, server))
            found += [
                Other(
                    peer, home, broker=broker, server=server, results_url=results_url, size=plan.size,
                    broker_cpu=broker_cpu,
                )
                for peer, home in peers
            ]  # fmt: skip
        for each in found:
            each.scenarios = [name for name in each.scenarios if name in plan.scenarios]
        return found

    async def _turn(self, contender: Contender, server: Server | None, turn: Turn) -> None:
        """Measure one contestant in one scenario, once. A failure is recorded in its place, and the run goes on."""
        scenario, label = turn.scenario, f"{contender.broker}, {contender.who}"
        name = scenario if turn.of == 1 else f"{scenario} {turn.round}/{turn.of}"
        self._progress.begins(label, name, self._done, self._all())
        start, limit = time.monotonic(), limit_of(scenario)
        records: list[Figure | Skipped]
        try:
            records = await self._limited.run(lambda: contender.measure(scenario), limit + EXTRA_SECONDS)
        except LeftBehind as error:
            records = [
                contender.skipped(scenario, f"failed: {error}; nothing more of {contender.who} was measured here")
            ]
            contender.scenarios = []
        except Exception as error:  # noqa: BLE001 - a client library that fails is a finding, too
            records = [contender.skipped(scenario, f"failed: {plain(error)}")]
        seconds = time.monotonic() - start
        if server is not None and not server.running:
            await server.start()
        failed = [record for record in records if isinstance(record, Skipped)]
        if failed and (seconds >= limit or not any(one.why.startswith("failed") for one in failed)):
            contender.scenarios = [one for one in contender.scenarios if one != scenario]  # the next time is no better
        for record in records:
            self._on_record(_stamped(record, turn, start - self._began))
        self._done += 1
        self._progress.ends(label, name, seconds, _outcome(records))

    def _all(self) -> int:
        """Count how many turns of one contestant this run may have."""
        plan, turns = self._plan, 0
        for broker in plan.brokers:
            peers = len(plan.installed.on(broker))
            for name in plan.scenarios:
                who = peers * (name in PARTS) + (broker in BROKERS) * (1 + (name in FIGURES))
                turns += who * wanted(name, plan.rounds)
        return max(turns, self._done)


def _stamped(record: Figure | Skipped, turn: Turn, at: float) -> Figure | Skipped:
    if isinstance(record, Figure):
        return msgspec.structs.replace(record, round=turn.round, at=round(at, 1))
    if turn.round > 1:
        return msgspec.structs.replace(record, why=f"in round {turn.round}: {record.why}")
    return record


def _outcome(records: list[Figure | Skipped]) -> str:
    for record in records:
        if isinstance(record, Skipped):
            return record.why
    figures = [record for record in records if isinstance(record, Figure)]
    return "; ".join(f"{one.name} {show(one.median)} {one.unit}" for one in figures[:3])


def _server_settings(broker: str, server: Server | None) -> Contestant:
    settings = BROKERS[broker].settings if broker in BROKERS else POSTGRES_SETTINGS
    return Contestant(who=f"server, {broker}", version=server.version if server else "", settings=settings)


POSTGRES_SETTINGS = "one server, defaults (every commit on disk: synchronous_commit), shared_buffers 256 MB"


@asynccontextmanager
async def _server(broker: str) -> AsyncIterator[Server | None]:
    if broker != "postgresql":
        async with private_server(broker) as server:
            yield server
        return
    try:
        postgres = PostgresServer(config={"shared_buffers": "256MB"})
    except ServerMissing as error:
        raise NotHere(plain(error)) from error
    async with postgres:
        yield postgres


@asynccontextmanager
async def _results(broker: str, server: Server) -> AsyncIterator[str]:
    """Open where peers keep results: the broker if it is Redis, else a Redis of their own; none for PostgreSQL."""
    if broker == "redis":
        yield server.url
    elif broker == "postgresql":
        yield ""
    else:
        try:
            other = RedisServer(config={"appendfsync": "everysec"})
        except ServerMissing:
            yield ""
            return
        async with other:
            yield other.url
