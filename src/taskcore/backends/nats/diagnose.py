"""How a NATS server is set up, from its own answers.

version · sync_interval · storage · replicas · max_payload · limits · round trip
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from taskcore.backends.nats.layout import FAMILY_LEVEL, SCHEDULES_LEVEL
from taskcore.backends.nats.publish import TRAIL_ROOM
from taskcore.connections.nats import NatsLink
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, failed, passed, warned
from taskcore.toolkit.units import show_duration, show_size

__all__ = ["diagnose"]

USUAL_PAYLOAD: Final = 256 * 1024  #: bytes that a job may have unless the app says otherwise
SLOW_ANSWER: Final = 0.02  #: seconds
NEARLY_FULL: Final = 0.9  #: share of a limit
LIMITS: Final = (
    ("storage", "max_storage", "bytes of file storage"),
    ("streams", "max_streams", "streams"),
    ("consumers", "max_consumers", "consumers"),
)


async def diagnose(link: NatsLink) -> Diagnosis:
    """Ask the server.

    :raises BrokerUnavailable: it cannot be reached.
    """
    began = time.perf_counter()
    account = await link.api("INFO")
    seconds = time.perf_counter() - began
    streams = await _streams(link)
    wanted = link.address.replicas or 1
    replicas = min((int(stream["config"]["num_replicas"]) for stream in streams), default=wanted)
    memory = [stream["config"]["name"] for stream in streams if stream["config"]["storage"] == "memory"]
    in_memory = bool(memory) or link.address.storage == "memory"
    survives = "a killed server" if replicas == 1 else f"the loss of {(replicas - 1) // 2} of {replicas} servers"
    durability = (
        "streams are kept in memory: confirmed jobs are gone when their servers stop"
        if in_memory
        else f"confirmed jobs survive {survives}; a power cut may take the last 2 min, unless sync_interval says less"
    )
    checks = (
        _version(link),
        _sync(replicas),
        _storage(memory) if in_memory else passed("storage", "streams are kept in files"),
        _replicas(streams, replicas),
        _payload(link.max_payload),
        *_limits(account),
        *_lossy(streams),
        _latency(seconds),
    )
    return Diagnosis(server=f"NATS {link.version}", durability=durability, checks=checks)


async def _streams(link: NatsLink) -> list[dict[str, Any]]:
    """Return all of ours."""
    prefix = f"{link.address.prefix}-"
    streams = [stream async for page in link.pages("STREAM.LIST") for stream in page.get("streams") or ()]
    return [stream for stream in streams if stream["config"]["name"].startswith(prefix)]


def _version(link: NatsLink) -> DiagnosticCheck:
    text = f"server {link.version}, level {link.level} of JetStream's API"
    if link.level >= SCHEDULES_LEVEL:
        return passed("version", f"{text}: schedules and times to live are the server's")
    also = "" if link.level >= FAMILY_LEVEL else ", and so are expiry times"
    return warned(
        "version", f"{text}: delays are kept by timers in our workers{also}", "upgrade the server to 2.12 or newer"
    )


def _sync(replicas: int) -> DiagnosticCheck:
    text = "a server does not tell its sync_interval; by default it writes through to its disk every 2 min only"
    if replicas > 1:
        text += f", so a power cut that takes all {replicas} servers at once may take that much"
        return warned("sync_interval", text, "let the servers of a cluster have separate power, or set sync_interval")
    text += f", so a power cut may take confirmed jobs of the last {show_duration(120.0)}"
    fix = "jetstream { sync_interval: always } in the server's configuration (slower), or replicas=3"
    return warned("sync_interval", text, fix, "C1")


def _storage(memory: list[str]) -> DiagnosticCheck:
    text = f"kept in memory: {', '.join(memory) or 'all streams that are made from now on'}"
    return warned("storage", text, "leave ?storage=memory out", "C1")


def _replicas(streams: list[dict[str, Any]], replicas: int) -> DiagnosticCheck:
    behind = {
        stream["config"]["name"]
        for stream in streams
        for replica in (stream.get("cluster") or {}).get("replicas") or []
        if replica.get("offline") or not replica.get("current", True)
    }
    if behind:
        text = f"not all replicas are up to date: {', '.join(sorted(behind))}"
        return warned("replicas", text, "see why a server of the cluster is down or slow")
    if replicas == 1 and any(stream.get("cluster", {}).get("name") for stream in streams):
        text = "this is a cluster, and streams of ours are on one server only"
        return warned("replicas", text, "?replicas=3 for new streams; `nats stream edit` for those that exist")
    return passed("replicas", f"each stream is on {replicas} server{'s' * (replicas > 1)}")


def _payload(most: int) -> DiagnosticCheck:
    if most - TRAIL_ROOM >= USUAL_PAYLOAD:
        return passed("max_payload", f"the server takes {show_size(most)} at once")
    return failed(
        "max_payload",
        f"the server takes {show_size(most)}, jobs may have {show_size(USUAL_PAYLOAD)} and a trail",
        "raise max_payload in the server's configuration, or lower payload_limit",
    )


def _limits(account: dict[str, Any]) -> Iterator[DiagnosticCheck]:
    for used, name, what in LIMITS:
        most = (account.get("limits") or {}).get(name, -1)
        if isinstance(most, int) and most > 0:
            text = f"the account has {account.get(used, 0):,} of {most:,} {what}"
            if account.get(used, 0) >= most * NEARLY_FULL:
                yield warned(used, text, "raise the account's limit: what does not fit is refused")
            else:
                yield passed(used, text)


def _lossy(streams: list[dict[str, Any]]) -> Iterator[DiagnosticCheck]:
    """Find limits that drop the oldest jobs."""
    configs = [stream["config"] for stream in streams if stream["config"].get("retention") == "workqueue"]
    names = [
        config["name"]
        for config in configs
        if config.get("max_age")
        or (config.get("discard") == "old" and max(config.get("max_msgs", -1), config.get("max_bytes", -1)) > 0)
    ]
    if names:
        text = f"these streams drop jobs when they are full or old: {', '.join(names)}"
        yield failed("limits", text, "remove max_msgs, max_bytes and max_age from them", "C1")


def _latency(seconds: float) -> DiagnosticCheck:
    text = f"JetStream answers in {seconds * 1000:.1f} ms"
    if seconds > SLOW_ANSWER:
        return warned("round trip", text, "let workers and server stand near each other")
    return passed("round trip", text)
