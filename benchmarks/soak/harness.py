"""The harness: servers, proxies, workers and senders; and the faults that are done to them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import anyio.abc
import msgspec

from benchmarks.soak.addresses import Endpoint, endpoint_through, target_of
from benchmarks.soak.app import Spec
from benchmarks.soak.fleet import Fleet
from benchmarks.soak.kinds import QUEUES
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.members import Member
from benchmarks.soak.plan import Fault
from taskcore.faults import ChaosProxy, Server

__all__ = ["SoakHarness", "set_up"]

READY_WITHIN = 300.0  #: seconds: many soaks and other programs may share the machine, and a server reads its data first
SENDERS = {"sender": (), "batch-sender": ("--batches",)}
MAX_JOBS = 120  #: after which a process of the fleet is replaced
MAX_MEMORY = "112MiB"  #: … or one of the scaled supervisor, whose jobs leave something behind
MOST = 3  #: processes of the scaled supervisor
FEW = 4  #: jobs at once in each of them


class SoakHarness:
    """Everything that acts in a run.

    :ivar url: where the broker is, not through a proxy; ``store`` too, None where the broker keeps the records.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed
        self.queue = "soak-" + folder.name[-8:].replace("_", "x")
        self.url = ""
        self.spec = Spec("", None, "", seed, 0.0)  #: what the children work with, but for their URLs and seeds
        self.store: str | None = None
        self.servers: dict[str, Server] = {}
        self.networks: dict[str, ChaosProxy] = {}
        self.workers: list[Member] = []
        self.senders: list[Member] = []
        self.done: Counter[str] = Counter()  #: faults, by what was done to what
        self.ledger = Ledger(folder / "harness.jsonl", "harness")
        self._turns: dict[str, anyio.Lock] = {}

    @property
    def queues(self) -> list[str]:
        """The queues of the run."""
        return [self.queue + end for end in QUEUES]

    @property
    def members(self) -> dict[str, Member]:
        """All processes by name."""
        return {member.name: member for member in (*self.workers, *self.senders)}

    async def play(self, fault: Fault) -> None:
        """Do one fault; faults of one target wait for each other, those of others do not.

        One that comes while its server still starts is left out: on a busy machine a node of RabbitMQ takes a minute,
        and what had to wait would go on for long after the end.
        """
        member = self.members.get(fault.target)
        turn = member.turn if member is not None else self._turns.setdefault(fault.target, anyio.Lock())
        if fault.target in self.servers and turn.locked():
            return
        async with turn:
            who = member.aim(fault.kind) if member is not None else fault.target
            self.ledger.write("fault", kind=fault.kind, target=who, seconds=fault.seconds)
            if member is not None:
                await _play_on_process(member, fault)
            elif fault.target in self.servers:
                await _play_on_server(self.servers[fault.target], fault)
            else:
                await _play_on_network(self.networks[fault.target], fault)
            self.ledger.write("healed", kind=fault.kind, target=who)
        self.done[f"{fault.target}: {fault.kind}"] += 1

    async def heal(self) -> None:
        """End every fault that may still last."""
        for proxy in self.networks.values():
            await proxy.heal()
        for member in self.members.values():
            member.resume()
            if isinstance(member, Fleet):
                member.resume_one()
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
        case "stop":
            await member.stop()
            await anyio.sleep(fault.seconds)
            member.start()
        case _:
            assert isinstance(member, Fleet), fault
            await _play_on_fleet(member, fault)


async def _play_on_fleet(member: Fleet, fault: Fault) -> None:
    match fault.kind:
        case "kill one":
            member.kill_one()
        case "pause one":
            member.pause_one()
            await anyio.sleep(fault.seconds)
            member.resume_one()
        case "orphan":
            member.orphan()
            await anyio.sleep(fault.seconds)
            member.start()
        case "broken reload":
            member.break_code()
            await anyio.sleep(fault.seconds)
            member.reload()
        case _:
            member.reload()


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
async def set_up(broker: Endpoint, store: Endpoint | None, like: Spec, *, seconds: float) -> AsyncIterator[SoakHarness]:
    """Start everything; at its end nothing is left but the folder, which has the ledgers and the logs.

    :param like: the seed and the lease; the rest of it follows from broker and store.
    """
    harness = SoakHarness(Path(tempfile.mkdtemp(prefix="taskcore-soak-")), like.seed)
    async with AsyncExitStack() as exits:
        harness.url = await _open(broker, "broker", harness, exits)
        if store is not None:
            harness.store = await _open(store, "store", harness, exits)
        workers, senders = [
            await _through(harness.url, f"{side}' connections", harness, exits) for side in ("workers", "senders")
        ]
        records = None if harness.store is None else await _through(harness.store, "store connections", harness, exits)
        harness.spec = msgspec.structs.replace(like, store=records, queue=harness.queue, keep=seconds + 1800.0)
        _add_members(
            harness,
            msgspec.structs.replace(harness.spec, url=workers),
            msgspec.structs.replace(harness.spec, url=senders),
        )
        try:
            for member in harness.members.values():
                member.start()
            yield harness
        finally:
            for member in harness.members.values():
                member.forget()


def _add_members(harness: SoakHarness, work: Spec, send: Spec) -> None:
    """Make the workers and the senders."""
    main, bulk, rough = harness.queue, harness.queue + "-bulk", harness.queue + "-rough"
    plain = "benchmarks.soak.worker"
    seeds = count(harness.seed + 1000, 1000)
    log = ("--log-level", "info")

    def place(spec: Spec) -> tuple[Spec, Path, Ledger]:
        return msgspec.structs.replace(spec, seed=next(seeds)), harness.folder, harness.ledger

    fleet = ("--processes", "2", "--max-jobs", str(MAX_JOBS), "--queues", f"{main},{rough}", *log)
    scaled = (
        "--processes",
        f"1..{MOST}",
        "--max-memory",
        MAX_MEMORY,
        "-c",
        str(FEW),
        "--queues",
        f"{bulk},{main}",
        *log,
    )
    reloaded = ("--reload", "--queues", f"{main},{rough}={FEW}", *log)
    harness.workers += [
        Member("worker-veteran", [plain, main], *place(work)),
        Member("worker-plain", [plain, main, rough], *place(work)),
        Fleet("worker-fleet", fleet, *place(work)),
        Fleet("worker-scaled", scaled, *place(work), leaks=True),
        Fleet("worker-reload", reloaded, *place(work), reloads=True),
    ]
    for name, arguments in SENDERS.items():
        harness.senders.append(Member(name, ["benchmarks.soak.sender", *arguments], *place(send)))


async def _open(endpoint: Endpoint, role: str, harness: SoakHarness, exits: AsyncExitStack) -> str:
    """Start the server of an endpoint, if it has one; return the URL."""
    if endpoint.server is not None:
        endpoint.server.ready_within = READY_WITHIN
        harness.servers[role] = await exits.enter_async_context(endpoint.server)
        return endpoint.server.url
    return f"sqlite:///{harness.folder}/records.db" if endpoint.url == "sqlite" else endpoint.url


async def _through(url: str, name: str, harness: SoakHarness, exits: AsyncExitStack) -> str:
    """Put a proxy before an endpoint, where one can stand there; return the URL that leads through it."""
    target = target_of(url)
    if target is None:
        return url
    proxy = harness.networks[name] = await exits.enter_async_context(ChaosProxy(*target))
    return endpoint_through(url, proxy.port)
