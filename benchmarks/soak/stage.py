"""The stage: servers, proxies, workers and senders; and the faults that are done to them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc

from benchmarks.soak.addresses import Endpoint, endpoint_through, target_of
from benchmarks.soak.family import Member
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.plan import WORKERS, Fault
from benchmarks.soak.tasks import Spec
from taskcore.errors import BrokerUnavailable
from taskcore.faults import ChaosProxy, Server

__all__ = ["Stage", "set_up"]

STARTS = 3  #: how often the start of a server is tried
SENDERS = {"sender": (), "batch-sender": ("--batches",)}


class Stage:
    """Everything that acts in a run.

    :ivar url: where the broker is, not through a proxy; ``store`` too, None where the broker keeps the records.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.queue = "soak-" + folder.name[-8:].replace("_", "x")
        self.url = ""
        self.store: str | None = None
        self.servers: dict[str, Server] = {}
        self.networks: dict[str, ChaosProxy] = {}
        self.workers: list[Member] = []
        self.senders: list[Member] = []
        self.done: Counter[str] = Counter()  #: faults, by what was done to what
        self.ledger = Ledger(folder / "harness.jsonl", "harness")
        self._turns: dict[str, anyio.Lock] = {}

    @property
    def members(self) -> dict[str, Member]:
        """All processes by name."""
        return {member.name: member for member in (*self.workers, *self.senders)}

    async def play(self, fault: Fault) -> None:
        """Do one fault; faults of one target wait for each other, those of others do not."""
        member = self.members.get(fault.target)
        turn = member.turn if member is not None else self._turns.setdefault(fault.target, anyio.Lock())
        async with turn:
            who = member.who if member is not None else fault.target
            self.ledger.write("fault", kind=fault.kind, target=who, seconds=fault.seconds)
            if member is not None:
                await _play_on_process(member, fault)
            elif fault.target in self.servers:
                await _play_on_server(self.servers[fault.target], fault)
            else:
                await _play_on_network(self.networks[fault.target], fault)
            self.ledger.write("healed", kind=fault.kind, target=who)
        self.done[
            f"{fault.target.rpartition('-')[0] if 'worker-' in fault.target else fault.target}: {fault.kind}"
        ] += 1

    async def heal(self) -> None:
        """End every fault that may still last."""
        for proxy in self.networks.values():
            await proxy.heal()
        for member in self.members.values():
            member.resume()
        for server in self.servers.values():
            await server.start()


async def _play_on_process(member: Member, fault: Fault) -> None:
    match fault.kind:
        case "kill":
            member.kill()
            await anyio.sleep(fault.seconds)
            member.start()
        case "pause":
            member.pause()
            await anyio.sleep(fault.seconds)
            member.resume()
        case _:
            await member.stop()
            await anyio.sleep(fault.seconds)
            member.start()


async def _play_on_server(server: Server, fault: Fault) -> None:
    if fault.kind == "kill":
        server.kill()
    else:
        await server.stop()
    await anyio.sleep(fault.seconds)
    await server.start()


async def _play_on_network(proxy: ChaosProxy, fault: Fault) -> None:
    if fault.kind == "cut":
        proxy.cut()
        return
    proxy.black_hole()
    await anyio.sleep(fault.seconds)
    await proxy.heal()


@asynccontextmanager
async def set_up(broker: Endpoint, store: Endpoint | None, *, seed: int, seconds: float) -> AsyncIterator[Stage]:
    """Start everything; at its end nothing is left but the folder, which has the ledgers and the logs."""
    stage = Stage(Path(tempfile.mkdtemp(prefix="taskcore-soak-")), seed)
    async with AsyncExitStack() as exits:
        stage.url = await _open(broker, "broker", stage, exits)
        if store is not None:
            stage.store = await _open(store, "store", stage, exits)
        through = {
            side: await _through(stage.url, f"{side}' connections", stage, exits) for side in ("workers", "senders")
        }
        records = None if stage.store is None else await _through(stage.store, "store connections", stage, exits)
        keep = seconds + 1800.0
        for number in range(1, WORKERS + 1):
            spec = Spec(through["workers"], records, stage.queue, seed + 1000 * number, keep)
            stage.workers.append(
                Member(f"worker-{number}", ["benchmarks.soak.worker"], spec, stage.folder, stage.ledger)
            )
        for number, (name, arguments) in enumerate(SENDERS.items(), WORKERS + 1):
            spec = Spec(through["senders"], records, stage.queue, seed + 1000 * number, keep)
            program = ["benchmarks.soak.sender", *arguments]
            stage.senders.append(Member(name, program, spec, stage.folder, stage.ledger))
        try:
            for member in stage.members.values():
                member.start()
            yield stage
        finally:
            for member in stage.members.values():
                member.forget()


async def _open(endpoint: Endpoint, role: str, stage: Stage, exits: AsyncExitStack) -> str:
    """Start the server of an endpoint, if it has one; return the URL."""
    if endpoint.server is not None:
        stage.servers[role] = await _start(endpoint.server, exits)
        return endpoint.server.url
    return f"sqlite:///{stage.folder}/records.db" if endpoint.url == "sqlite" else endpoint.url


async def _start(server: Server, exits: AsyncExitStack) -> Server:
    for _ in range(STARTS - 1):
        with suppress(BrokerUnavailable):  # a busy machine: it was not ready in time
            return await exits.enter_async_context(server)
    return await exits.enter_async_context(server)


async def _through(url: str, name: str, stage: Stage, exits: AsyncExitStack) -> str:
    """Put a proxy before an endpoint, where one can stand there; return the URL that leads through it."""
    target = target_of(url)
    if target is None:
        return url
    proxy = stage.networks[name] = await exits.enter_async_context(ChaosProxy(*target))
    return endpoint_through(url, proxy.port)
