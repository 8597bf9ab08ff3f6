"""What a NATS server says about itself, and what it does not tell."""

from __future__ import annotations

import time
from typing import Any

from taskcore.backends.nats.layout import FAMILY, SCHEDULES
from taskcore.backends.nats.publish import GROWTH
from taskcore.connections.nats import NatsLink
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck
from taskcore.toolkit.units import show_duration, show_size

__all__ = ["diagnose"]

PAYLOAD = 256 * 1024  #: bytes that a job may have unless the app says otherwise
SLOW = 0.02  #: seconds
NEARLY = 0.9


async def diagnose(link: NatsLink) -> Diagnosis:
    """Ask the server.

    :raises BrokerUnavailable: it cannot be reached.
    """
    began = time.perf_counter()
    account = await link.api("INFO")
    seconds = time.perf_counter() - began
    streams = await _streams(link)
    replicas = min((int(stream["config"]["num_replicas"]) for stream in streams), default=link.address.replicas or 1)
    memory = [stream["config"]["name"] for stream in streams if stream["config"]["storage"] == "memory"]
    facts = [
        _version(link),
        _sync(replicas),
        _storage(link, memory),
        _replicas(streams, replicas),
        _payload(link),
        *_limits(account),
        *_lossy(streams),
        DiagnosticCheck(
            name="round trip",
            level="warn" if seconds > SLOW else "ok",
            text=f"JetStream answers in {seconds * 1000:.1f} ms",
            fix="let workers and server stand near each other" if seconds > SLOW else "",
        ),
    ]
    survives = "a killed server" if replicas == 1 else f"the loss of {(replicas - 1) // 2} of {replicas} servers"
    durability = (
        "streams are kept in memory: confirmed jobs are gone when their servers stop"
        if memory or link.address.storage == "memory"
        else f"confirmed jobs survive {survives}; a power cut may take the last 2 min, unless sync_interval says less"
    )
    return Diagnosis(server=f"NATS {link.version}", durability=durability, checks=tuple(facts))


async def _streams(link: NatsLink) -> list[dict[str, Any]]:
    """All of ours."""
    prefix, found, offset = f"{link.address.prefix}-", [], 0
    while True:
        page = await link.api("STREAM.LIST", {"offset": offset})
        streams = page.get("streams") or []
        found += [stream for stream in streams if stream["config"]["name"].startswith(prefix)]
        offset += len(streams)
        if not streams or offset >= page.get("total", 0):
            return found


def _version(link: NatsLink) -> DiagnosticCheck:
    said = f"server {link.version}, level {link.level} of JetStream's API"
    if link.level >= SCHEDULES:
        return DiagnosticCheck(name="version", level="ok", text=f"{said}: schedules and times to live are the server's")
    what = "delays are kept by timers in our workers" + ("" if link.level >= FAMILY else ", and so are expiry times")
    return DiagnosticCheck(
        name="version", level="warn", text=f"{said}: {what}", fix="upgrade the server to 2.12 or newer"
    )


def _sync(replicas: int) -> DiagnosticCheck:
    text = "a server does not tell its sync_interval; by default it writes through to its disk every 2 min only"
    if replicas > 1:
        return DiagnosticCheck(
            name="sync_interval",
            level="warn",
            text=f"{text}, so a power cut that takes all {replicas} servers at once may take that much",
            fix="let the servers of a cluster have separate power, or set sync_interval",
        )
    return DiagnosticCheck(
        name="sync_interval",
        level="warn",
        text=f"{text}, so a power cut may take confirmed jobs of the last {show_duration(120.0)}",
        fix="jetstream { sync_interval: always } in the server's configuration (slower), or replicas=3",
        clauses=("C1",),
    )


def _storage(link: NatsLink, memory: list[str]) -> DiagnosticCheck:
    if memory or link.address.storage == "memory":
        return DiagnosticCheck(
            name="storage",
            level="warn",
            text=f"kept in memory: {', '.join(memory) or 'all streams that are made from now on'}",
            fix="leave ?storage=memory out",
            clauses=("C1",),
        )
    return DiagnosticCheck(name="storage", level="ok", text="streams are kept in files")


def _replicas(streams: list[dict[str, Any]], replicas: int) -> DiagnosticCheck:
    behind = [
        stream["config"]["name"]
        for stream in streams
        for replica in (stream.get("cluster") or {}).get("replicas") or []
        if replica.get("offline") or not replica.get("current", True)
    ]
    if behind:
        return DiagnosticCheck(
            name="replicas",
            level="warn",
            text=f"not all replicas are up to date: {', '.join(sorted(set(behind)))}",
            fix="see why a server of the cluster is down or slow",
        )
    clustered = any(stream.get("cluster", {}).get("name") for stream in streams)
    if clustered and replicas == 1:
        return DiagnosticCheck(
            name="replicas",
            level="warn",
            text="this is a cluster, and streams of ours are on one server only",
            fix="?replicas=3 for new streams; `nats stream edit` for those that exist",
        )
    return DiagnosticCheck(
        name="replicas", level="ok", text=f"each stream is on {replicas} server{'s' * (replicas > 1)}"
    )


def _payload(link: NatsLink) -> DiagnosticCheck:
    most = link.max_payload
    if most - GROWTH < PAYLOAD:
        return DiagnosticCheck(
            name="max_payload",
            level="fail",
            text=f"the server takes {show_size(most)}, jobs may have {show_size(PAYLOAD)} and a trail",
            fix="raise max_payload in the server's configuration, or lower payload_limit",
        )
    return DiagnosticCheck(name="max_payload", level="ok", text=f"the server takes {show_size(most)} at once")


def _limits(account: dict[str, Any]) -> list[DiagnosticCheck]:
    limits: dict[str, Any] = account.get("limits") or {}
    facts = []
    for used, name, what in (
        ("storage", "max_storage", "bytes of file storage"),
        ("streams", "max_streams", "streams"),
        ("consumers", "max_consumers", "consumers"),
    ):
        most = limits.get(name, -1)
        if isinstance(most, int) and most > 0:
            full = account.get(used, 0) >= most * NEARLY
            text = f"the account has {account.get(used, 0):,} of {most:,} {what}"
            fix = "raise the account's limit: what does not fit is refused" if full else ""
            facts.append(DiagnosticCheck(name=what.split()[0], level="warn" if full else "ok", text=text, fix=fix))
    return facts


def _lossy(streams: list[dict[str, Any]]) -> list[DiagnosticCheck]:
    """A limit on a stream that drops the oldest is a way to lose jobs."""
    names = [
        stream["config"]["name"]
        for stream in streams
        if stream["config"].get("retention") == "workqueue"
        and (
            stream["config"].get("max_age")
            or (
                stream["config"].get("discard") == "old"
                and (stream["config"].get("max_msgs", -1) > 0 or stream["config"].get("max_bytes", -1) > 0)
            )
        )
    ]
    if not names:
        return []
    return [
        DiagnosticCheck(
            name="limits",
            level="fail",
            text=f"these streams drop jobs when they are full or old: {', '.join(names)}",
            fix="remove max_msgs, max_bytes and max_age from them",
            clauses=("C1",),
        )
    ]
