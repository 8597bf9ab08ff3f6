"""How a Redis or Valkey is set up, from its own answers; for backend and store alike.

    version · persistence · disk · eviction · memory · replicas · cluster · clock · round trip · unknown

It is asked by INFO, which is rarely forbidden, and CONFIG, which managed services forbid; a setting that stays unknown
is a finding.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from taskcore.connections.redis.connection import Command
from taskcore.connections.redis.link import OLDEST_VERSION, RedisLink
from taskcore.connections.redis.refusals import CommandRefused
from taskcore.toolkit.diagnostics import (
    Diagnosis,
    DiagnosticCheck,
    clock_check,
    combined,
    failed,
    passed,
    round_trip_check,
    warned,
)
from taskcore.toolkit.units import show_rounded

__all__ = ["Execute", "diagnose", "examine"]

SECTIONS: Final = ("server", "persistence", "memory", "replication", "cluster")
SETTINGS: Final = ("appendfsync", "save", "min-replicas-to-write")
PING_COUNT: Final = 20  #: questions whose answers are timed
SLOW_PING: Final = 0.01  #: seconds
CLOCK_DIFFERENCE: Final = 1.0  #: seconds that two clocks may differ
CLOCK_HARM: Final = "delays and leases follow the server's clock"
NEARLY_FULL: Final = 0.8  #: share of the memory that may be used


#: Sends one command to the server that is examined, and returns its reply in a list; raises as ``RedisLink.call``.
Execute: TypeAlias = Callable[[Command], Awaitable[list[Any]]]


async def diagnose(link: RedisLink) -> Diagnosis:
    """Ask how the server is set up; in a cluster every node, because they may differ.

    :raises BrokerUnavailable: it cannot be reached.
    """
    return combined({str(node): await examine(partial(link.call_node, node)) for node in await link.nodes()})


async def examine(execute: Execute, *, now: Callable[[], float] = time.time) -> Diagnosis:
    """Ask how one server is set up.

    :param now: the clock with which the server's is compared.
    :raises BrokerUnavailable: it cannot be reached.
    """
    info = _pairs(await _ask(execute, "INFO", *SECTIONS))
    config = _settings(await _ask(execute, "CONFIG", "GET", *SETTINGS))
    clock = await _clock(execute, now)
    pings = [await _ping(execute) for _ in range(PING_COUNT)]
    return _judge(ServerAnswers(info, config, clock, pings))


class ServerAnswers(NamedTuple):
    """What the server said.

    :param clock: the seconds by which its clock is ahead of ours, and the accuracy of that; None: it did not say.
    """

    info: Mapping[str, str]
    config: Mapping[str, str]
    clock: tuple[float, float] | None
    pings: list[float]


# ── asking ───────────────────────────────────────────────────────────────────────────────────────


async def _ask(execute: Execute, *command: str) -> Any:
    """Return the reply; None if the server does not tell."""
    try:
        [reply] = await execute(command)
    except CommandRefused:
        return None
    return reply


async def _clock(execute: Execute, now: Callable[[], float]) -> tuple[float, float] | None:
    before = now()
    reply = await _ask(execute, "TIME")
    after = now()
    if reply is None:
        return None
    seconds = int(reply[0]) + int(reply[1]) / 1e6
    return seconds - (before + after) / 2, (after - before) / 2


async def _ping(execute: Execute) -> float:
    """Return the seconds that a PING takes."""
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


def _judge(answers: ServerAnswers) -> Diagnosis:
    info = answers.info
    name = "Valkey" if info.get("server_name") == "valkey" else "Redis"
    version = info.get("valkey_version") if name == "Valkey" else info.get("redis_version")
    durability, persistence = _persistence(answers)
    if _replicas(info):
        durability += "; a failover may lose what was not replicated yet"
    checks = (
        _version(name, version, info),
        persistence,
        *_disk(info),
        *_eviction(info),
        *_memory(info),
        *_replication(answers),
        *([passed("cluster", "a node of a cluster")] if info.get("cluster_enabled") == "1" else ()),
        *([clock_check(*answers.clock, limit=CLOCK_DIFFERENCE, harm=CLOCK_HARM)] if answers.clock else ()),
        round_trip_check(answers.pings, slow=SLOW_PING, fix="run workers closer to the server; see SLOWLOG GET"),
        *_unknown(answers),
    )
    return Diagnosis(server=f"{name} {version or '(version unknown)'}", durability=durability, checks=checks)


def _version(name: str, version: str | None, info: Mapping[str, str]) -> DiagnosticCheck:
    numbers = re.match(r"(\d+)\.(\d+)", info.get("redis_version", ""))  # Valkey names the Redis that it is like
    if numbers is None:
        return warned("version", "the server does not say which version it is")
    if (int(numbers[1]), int(numbers[2])) < OLDEST_VERSION:
        return failed("version", f"{name} {version} is too old", f"{'.'.join(map(str, OLDEST_VERSION))} or newer")
    return passed("version", f"{name} {version}")


def _persistence(answers: ServerAnswers) -> tuple[str, DiagnosticCheck]:
    """Return what a killed server and a power cut cost: as one sentence, and as a check."""
    on, fsync, save = answers.info.get("aof_enabled"), answers.config.get("appendfsync"), answers.config.get("save")
    if on is None:
        text = "unknown: the server does not say whether it keeps an append-only file"
        return text, warned("persistence", text, "ask its operator for appendonly yes")
    if on == "0":
        text = {
            None: "loses everything since the last snapshot, if there is any, when Redis is killed",
            "": "loses everything when Redis is killed or restarted",
        }.get(save, f"loses everything since the last snapshot (save {save}) when Redis is killed")
        said = f"there is no append-only file: Redis {text}"
        return text, warned("persistence", said, "appendonly yes", "C1", "C5")
    sentences = {
        "always": "survives a killed Redis and a power cut",
        "everysec": "survives a killed Redis; a power cut loses about the last second",
        "no": "survives a killed Redis; a power cut loses about the last 30 seconds",
        None: "survives a killed Redis; what a power cut loses is unknown (appendfsync)",
    }
    text = sentences.get(fsync, sentences[None])
    said = f"append-only file, appendfsync {fsync or 'unknown'}: {text}"
    if fsync == "no":
        return text, warned("persistence", said, "appendfsync everysec, or always", "C1")
    return text, passed("persistence", said)


def _disk(info: Mapping[str, str]) -> Iterator[DiagnosticCheck]:
    names = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
    broken = [name for name in names if info.get(name, "ok") != "ok"]
    if broken:
        text = f"the server cannot write to its disk ({', '.join(broken)}), and may refuse all writes"
        yield failed("disk", text, "look into its log; free its disk")


def _eviction(info: Mapping[str, str]) -> Iterator[DiagnosticCheck]:
    policy = info.get("maxmemory_policy")
    if policy == "noeviction":
        yield passed("eviction", "noeviction: a full server refuses writes and forgets nothing")
    elif policy is not None:
        victims = "whole queues" if policy.startswith("allkeys") else "keys that expire: results and idempotency keys"
        text = f"{policy}: a full server throws away {victims}"
        yield warned("eviction", text, "maxmemory-policy noeviction", "C1", "C10")


def _memory(info: Mapping[str, str]) -> Iterator[DiagnosticCheck]:
    if not (info.get("maxmemory", "").isdigit() and info.get("used_memory", "").isdigit()):
        return
    used, limit = int(info["used_memory"]), int(info["maxmemory"])
    text = f"{show_rounded(used)} of {show_rounded(limit)} used"
    if not limit:
        text = f"{show_rounded(used)} used, and no limit: when the machine's memory is full, its kernel kills Redis"
        yield warned("memory", text, "maxmemory, at about 70% of the machine's memory")
    elif used > NEARLY_FULL * limit:
        yield warned("memory", text, "a larger maxmemory, or workers that keep up")
    else:
        yield passed("memory", text)


def _replication(answers: ServerAnswers) -> Iterator[DiagnosticCheck]:
    info = answers.info
    if info.get("role") == "slave":
        text = f"this server is a replica of {info.get('master_host')}:{info.get('master_port')} and takes no writes"
        yield failed("replicas", text, "name the primary in the URL, or redis+sentinel://…")
    elif replicas := _replicas(info):
        text = f"{replicas} connected; confirmed jobs reach them a moment later"
        if answers.config.get("min-replicas-to-write") == "0":
            text += ", and a primary that is cut off from them goes on confirming"
            yield warned("replicas", text, "min-replicas-to-write 1; ?wait=1 in the URL waits for a replica")
        else:
            yield passed("replicas", text)


def _replicas(info: Mapping[str, str]) -> int:
    number = info.get("connected_slaves", "0")
    return int(number) if number.isdigit() else 0


def _unknown(answers: ServerAnswers) -> Iterator[DiagnosticCheck]:
    unknown = [name for name in SETTINGS if name not in answers.config]
    unknown += [name for name in ("aof_enabled", "maxmemory_policy", "role") if name not in answers.info]
    if unknown:
        text = f"the server does not tell {', '.join(unknown)}: CONFIG or INFO is forbidden, as in managed services"
        yield warned("unknown", text, "look them up where the server is configured")
