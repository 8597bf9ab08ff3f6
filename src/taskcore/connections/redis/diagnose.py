"""What a Redis or Valkey is really set up to do, from what it says about itself.

    version · persistence · disk · eviction · memory · replicas · cluster · clock · latency · unknown

Asked are INFO, which hardly anybody forbids, and CONFIG, which managed services do: what stays in the dark is a fact.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from taskcore.connections.redis.connection import Denied
from taskcore.connections.redis.link import OLDEST, RedisLink
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck
from taskcore.toolkit.units import show_size

__all__ = ["Execute", "diagnose", "examine"]

SECTIONS = ("server", "persistence", "memory", "replication", "cluster")
SETTINGS = ("appendfsync", "save", "min-replicas-to-write")
PINGS = 20
SLOW = 0.01  #: seconds that a PING may take before somebody should wonder
APART = 1.0  #: seconds that two clocks may differ before somebody should wonder
FULL = 0.8  #: of the memory that may be used


class Execute(Protocol):
    """Sends one command to the server that is examined."""

    async def __call__(self, *command: bytes | str | float) -> Any:
        """Its reply.

        :raises Denied: the server does not allow or does not know it.
        :raises BrokerUnavailable: it cannot be reached.
        """
        ...


async def diagnose(link: RedisLink) -> Diagnosis:
    """How the server is set up; in a cluster every node, because each may differ.

    :raises BrokerUnavailable: it cannot be reached.
    """
    found: dict[str, Diagnosis] = {}
    for node in await link.nodes():
        found[str(node)] = await examine(partial(_on, link, node))
    return _combine(found)


async def _on(link: RedisLink, node: Any, *command: bytes | str | float) -> Any:
    [reply] = await link.call_node(node, command)
    return reply


async def examine(execute: Execute, *, now: Callable[[], float] = time.time) -> Diagnosis:
    """How one server is set up.

    :param now: the clock with which the server's is compared.
    :raises BrokerUnavailable: it cannot be reached.
    """
    info: dict[str, str] = {}
    for section in SECTIONS:
        info |= _pairs(await _ask(execute, "INFO", section))
    config = _settings(await _ask(execute, "CONFIG", "GET", *SETTINGS))
    clock = await _clock(execute, now)
    pings = [await _time(execute) for _ in range(PINGS)]
    return _judge(Answers(info, config, clock, pings))


class Answers(NamedTuple):
    """What the server said.

    :param clock: how many seconds its clock is ahead of ours, and how exactly that is known; None: it did not say.
    """

    info: Mapping[str, str]
    config: Mapping[str, str]
    clock: tuple[float, float] | None
    pings: list[float]


# ── asking ───────────────────────────────────────────────────────────────────────────────────────


async def _ask(execute: Execute, *command: str) -> Any:
    """The reply; None if the server does not tell."""
    try:
        return await execute(*command)
    except Denied:
        return None


async def _clock(execute: Execute, now: Callable[[], float]) -> tuple[float, float] | None:
    before = now()
    reply = await _ask(execute, "TIME")
    after = now()
    if reply is None:
        return None
    seconds = int(reply[0]) + int(reply[1]) / 1e6
    return seconds - (before + after) / 2, (after - before) / 2


async def _time(execute: Execute) -> float:
    began = time.perf_counter()
    await _ask(execute, "PING")
    return time.perf_counter() - began


def _pairs(reply: bytes | None) -> dict[str, str]:
    lines = (reply or b"").decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _settings(reply: list[bytes] | None) -> dict[str, str]:
    words = [word.decode(errors="replace") for word in reply or []]
    return dict(zip(words[::2], words[1::2], strict=True))


# ── judging ──────────────────────────────────────────────────────────────────────────────────────


def _judge(answers: Answers) -> Diagnosis:
    info = answers.info
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = info.get("valkey_version") if name == "Valkey" else info.get("redis_version")
    durability, persistence = _persistence(answers)
    if _replicas(info):
        durability += "; a failover may lose what was not replicated yet"
    facts = (
        _version(name, version, info),
        persistence,
        *_disk(info),
        *_eviction(info),
        *_memory(info),
        *_replication(answers),
        *_cluster(info),
        *_clocks(answers.clock),
        _latency(answers.pings),
        *_unknown(answers),
    )
    return Diagnosis(server=f"{name} {version or '(version unknown)'}", durability=durability, checks=facts)


def _version(name: str, version: str | None, info: Mapping[str, str]) -> DiagnosticCheck:
    numbers = re.match(r"(\d+)\.(\d+)", info.get("redis_version", ""))  # Valkey tells the Redis that it is like
    if numbers is None:
        return DiagnosticCheck(name="version", level="warn", text="the server does not say which version it is")
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return DiagnosticCheck(
            name="version", level="fail", text=f"{name} {version} is too old", fix=f"{oldest} or newer"
        )
    return DiagnosticCheck(name="version", level="ok", text=f"{name} {version}")


def _persistence(answers: Answers) -> tuple[str, DiagnosticCheck]:
    """What a killed server and a power cut cost: in one sentence, and as a fact."""
    on, fsync, save = answers.info.get("aof_enabled"), answers.config.get("appendfsync"), answers.config.get("save")
    if on is None:
        text = "unknown: the server does not say whether it keeps an append-only file"
        return text, DiagnosticCheck(
            name="persistence", level="warn", text=text, fix="ask whoever runs it for appendonly yes"
        )
    if on == "0":
        text = {
            None: "loses everything since the last snapshot, if there is any, when Redis is killed",
            "": "loses everything when Redis is killed or restarted",
        }.get(save, f"loses everything since the last snapshot (save {save}) when Redis is killed")
        return text, _lossy("persistence", f"there is no append-only file: Redis {text}", "appendonly yes", "C1", "C5")
    sentences = {
        "always": "survives a killed Redis and a power cut",
        "everysec": "survives a killed Redis; a power cut loses about the last second",
        "no": "survives a killed Redis; a power cut loses about the last 30 seconds",
        None: "survives a killed Redis; what a power cut loses is unknown (appendfsync)",
    }
    text = sentences.get(fsync, sentences[None])
    said = f"append-only file, appendfsync {fsync or 'unknown'}: {text}"
    if fsync == "no":
        return text, _lossy("persistence", said, "appendfsync everysec, or always", "C1")
    return text, DiagnosticCheck(name="persistence", level="ok", text=said)


def _lossy(name: str, text: str, fix: str, *clauses: str) -> DiagnosticCheck:
    return DiagnosticCheck(name=name, level="warn", text=text, fix=fix, clauses=clauses)


def _disk(info: Mapping[str, str]) -> Iterator[DiagnosticCheck]:
    names = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    failed = [name for name in names if info.get(name, "ok") != "ok"]
    if failed:
        text = f"the server cannot write to its disk ({', '.join(failed)}), and may refuse all writes"
        yield DiagnosticCheck(name="disk", level="fail", text=text, fix="look into its log; free its disk")


def _eviction(info: Mapping[str, str]) -> Iterator[DiagnosticCheck]:
    policy = info.get("maxmemory_policy")
    if policy is None:
        return
    if policy == "noeviction":
        yield DiagnosticCheck(
            name="eviction", level="ok", text="noeviction: a full server refuses writes and forgets nothing"
        )
    elif policy.startswith("allkeys"):
        text = f"{policy}: a full server throws away whole queues"
        yield _lossy("eviction", text, "maxmemory-policy noeviction", "C1", "C10")
    else:
        text = f"{policy}: a full server throws away keys that have an end, so results and idempotency keys"
        yield _lossy("eviction", text, "maxmemory-policy noeviction", "C1", "C10")


def _memory(info: Mapping[str, str]) -> Iterator[DiagnosticCheck]:
    if not (info.get("maxmemory", "").isdigit() and info.get("used_memory", "").isdigit()):
        return
    used, limit = int(info["used_memory"]), int(info["maxmemory"])
    if not limit:
        text = f"{show_size(used)} used, and no limit: when the machine's memory is full, its kernel kills Redis"
        yield DiagnosticCheck(
            name="memory", level="warn", text=text, fix="maxmemory, at about 70% of the machine's memory"
        )
        return
    full = used > FULL * limit
    text = f"{show_size(used)} of {show_size(limit)} used"
    fix = "a larger maxmemory, or workers that keep up" if full else ""
    yield DiagnosticCheck(name="memory", level="warn" if full else "ok", text=text, fix=fix)


def _replication(answers: Answers) -> Iterator[DiagnosticCheck]:
    info, needed = answers.info, answers.config.get("min-replicas-to-write")
    if info.get("role") == "slave":
        text = f"this server is a replica of {info.get('master_host')}:{info.get('master_port')} and takes no writes"
        yield DiagnosticCheck(
            name="replicas", level="fail", text=text, fix="name the primary in the URL, or redis+sentinel://…"
        )
    elif replicas := _replicas(info):
        text = f"{replicas} connected; confirmed jobs reach them a moment later"
        if needed == "0":
            text += ", and a primary that is cut off from them goes on confirming"
        fix = "min-replicas-to-write 1; ?wait=1 in the URL waits for a replica" if needed == "0" else ""
        yield DiagnosticCheck(name="replicas", level="warn" if needed == "0" else "ok", text=text, fix=fix)


def _replicas(info: Mapping[str, str]) -> int:
    number = info.get("connected_slaves", "0")
    return int(number) if number.isdigit() else 0


def _cluster(info: Mapping[str, str]) -> Iterator[DiagnosticCheck]:
    if info.get("cluster_enabled") == "1":
        yield DiagnosticCheck(name="cluster", level="ok", text="a node of a cluster")


def _clocks(clock: tuple[float, float] | None) -> Iterator[DiagnosticCheck]:
    if clock is None:
        return
    ahead, exactly = clock
    text = f"the server's clock is {abs(ahead):.3f} s {'ahead of' if ahead >= 0 else 'behind'} ours (± {exactly:.3f} s)"
    if abs(ahead) - exactly > APART:
        yield DiagnosticCheck(
            name="clock", level="warn", text=text, fix="NTP on both; delays and leases follow the server's clock"
        )
    else:
        yield DiagnosticCheck(name="clock", level="ok", text=text)


def _latency(pings: list[float]) -> DiagnosticCheck:
    middle, worst = statistics.median(pings), max(pings)
    text = f"a PING takes {middle * 1000:.2f} ms, of {len(pings)} the slowest {worst * 1000:.2f} ms"
    if middle > SLOW:
        fix = "run workers closer to the server; SLOWLOG GET, LATENCY DOCTOR"
        return DiagnosticCheck(name="latency", level="warn", text=text, fix=fix)
    return DiagnosticCheck(name="latency", level="ok", text=text)


def _unknown(answers: Answers) -> Iterator[DiagnosticCheck]:
    dark = [name for name in SETTINGS if name not in answers.config]
    dark += [name for name in ("aof_enabled", "maxmemory_policy", "role") if name not in answers.info]
    if dark:
        text = f"the server does not tell {', '.join(dark)}: CONFIG or INFO is forbidden, as in managed services"
        yield DiagnosticCheck(
            name="unknown", level="warn", text=text, fix="look them up where the server is configured"
        )


def _combine(found: Mapping[str, Diagnosis]) -> Diagnosis:
    """One diagnosis of several nodes: what all say once, what some say with their addresses."""
    if len(found) == 1:
        return next(iter(found.values()))
    facts: dict[DiagnosticCheck, list[str]] = {}
    for node, diagnosis in found.items():
        for fact in diagnosis.checks:
            facts.setdefault(fact, []).append(node)
    return Diagnosis(
        server=", ".join(dict.fromkeys(diagnosis.server for diagnosis in found.values())) + f", {len(found)} nodes",
        durability="; ".join(dict.fromkeys(diagnosis.durability for diagnosis in found.values())),
        checks=tuple(
            fact
            if len(nodes) == len(found)
            else DiagnosticCheck(
                name=fact.name,
                level=fact.level,
                text=f"{', '.join(nodes)}: {fact.text}",
                fix=fact.fix,
                clauses=fact.clauses,
            )
            for fact, nodes in facts.items()
        ),
    )
