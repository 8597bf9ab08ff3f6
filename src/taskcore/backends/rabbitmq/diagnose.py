"""What the server says about itself, and what that means for jobs."""

from __future__ import annotations

import re

from taskcore.backends.rabbitmq import layout as names
from taskcore.backends.rabbitmq.options import Options
from taskcore.backends.rabbitmq.parts import Parts
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck

__all__ = ["diagnose", "version_of"]

OLDEST, OWN_TIMEOUT, NOT_COUNTED = (3, 10), (3, 12), (4, 3)
AT_HOME = ("127.0.0.1", "localhost", "::1")


def version_of(text: str) -> tuple[int, ...]:
    """``3.10.8`` as numbers; nothing if it is no version."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


async def diagnose(parts: Parts, options: Options, durability: str) -> Diagnosis:
    """Ask the server; the protocol tells little, and what it does not tell is a fact, too.

    :raises BrokerUnavailable: it cannot be reached.
    """
    wire = await parts.office.line.open()
    told = str(wire.server.get("version", ""))
    version = version_of(told)
    facts = [
        _version(told, version),
        _kind(options),
        _timeout(version, options),
        _limit(options),
        _blocked(parts),
        DiagnosticCheck(
            name="heartbeat",
            level="ok",
            text=f"a process that hangs is noticed after {parts.link.address.heartbeat} to "
            f"{2 * parts.link.address.heartbeat} s",
        ),
        DiagnosticCheck(
            name="policies",
            level="ok",
            text="unknown: the protocol shows neither policies nor the number of nodes",
            fix="rabbitmqctl list_policies; a policy with max-length, expires or message-ttl on tc.* loses jobs",
        ),
        await _lost(parts),
    ]
    if parts.link.address.scheme == "amqp" and any(host not in AT_HOME for host, _ in parts.link.address.nodes):
        facts.append(
            DiagnosticCheck(
                name="encryption",
                level="warn",
                text="jobs and the password travel in the clear",
                fix="amqps:// and a certificate on the server",
            )
        )
    return Diagnosis(server=f"RabbitMQ {told or '?'}", durability=durability, checks=tuple(facts))


def _version(told: str, version: tuple[int, ...]) -> DiagnosticCheck:
    if version and version < OLDEST:
        return DiagnosticCheck(
            name="version",
            level="fail",
            text=f"{told} has no dead-lettering that cannot lose jobs, so delays are not safe",
            fix="3.10 or newer",
            clauses=("C1", "C16"),
        )
    return DiagnosticCheck(name="version", level="ok", text=told or "unknown")


def _kind(options: Options) -> DiagnosticCheck:
    if options.queue_type == "quorum":
        return DiagnosticCheck(
            name="queues", level="ok", text="quorum queues: on three nodes or more, the loss of one loses no job"
        )
    return DiagnosticCheck(
        name="queues",
        level="warn",
        text="classic queues: on one node only, and a job that kills its worker is not found without a store",
        fix="leave out queue_type=classic",
        clauses=("C5", "C12"),
    )


def _timeout(version: tuple[int, ...], options: Options) -> DiagnosticCheck:
    seconds = options.consumer_timeout
    if version >= OWN_TIMEOUT and seconds:
        return DiagnosticCheck(
            name="time limit", level="ok", text=f"the broker takes a job back that runs for more than {seconds:,} s"
        )
    return DiagnosticCheck(
        name="time limit",
        level="warn",
        text="the broker takes a job back that runs for longer than the node's consumer_timeout, 30 minutes by default",
        fix="consumer_timeout = 86400000 in rabbitmq.conf, if tasks run longer",
    )


def _limit(options: Options) -> DiagnosticCheck:
    if options.limit is None:
        return DiagnosticCheck(
            name="limit", level="ok", text="queues have no limit but the memory and disk alarms of the node"
        )
    return DiagnosticCheck(name="limit", level="ok", text=f"a queue refuses jobs above {options.limit:,}")


def _blocked(parts: Parts) -> DiagnosticCheck:
    wire = parts.publisher.line.wire
    if wire is not None and wire.blocked:
        return DiagnosticCheck(
            name="alarm",
            level="fail",
            text=f"the broker takes no jobs at the moment: {wire.blocked}",
            fix="give it memory or disk; workers go on meanwhile",
        )
    return DiagnosticCheck(
        name="alarm", level="ok", text="nothing is blocked, as far as this connection has sent anything"
    )


async def _lost(parts: Parts) -> DiagnosticCheck:
    count = await parts.office.count(names.LOST) or 0
    if count:
        return DiagnosticCheck(
            name="lost",
            level="warn",
            text=f"{count:,} scheduled jobs found their queue deleted when their time came; they wait in {names.LOST}",
            fix="look at them with rabbitmqadmin or the management pages; they are kept for 30 days",
        )
    return DiagnosticCheck(name="lost", level="ok", text="no scheduled job has lost its queue")
