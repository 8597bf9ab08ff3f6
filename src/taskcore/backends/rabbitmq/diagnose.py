"""What the server says about itself, and what that means for jobs."""

from __future__ import annotations

import re

from taskcore.backends.rabbitmq.admin import Connections
from taskcore.backends.rabbitmq.layout import LOST, QueueOptions
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, failed, passed, warned

__all__ = ["diagnose", "version_of"]

OLDEST, HAS_QUEUE_TIMEOUT = (3, 10), (3, 12)
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def version_of(text: str) -> tuple[int, ...]:
    """Return ``3.10.8`` as numbers; empty if it is no version."""
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


async def diagnose(connections: Connections, options: QueueOptions, durability: str) -> Diagnosis:
    """Ask the server; what the protocol does not tell is a check named unknown.

    :raises BrokerUnavailable: the server cannot be reached.
    """
    server = (await connections.admin.connection.open()).server_properties
    text = str(server.get("version", ""))
    version = version_of(text)
    address = connections.connector.address
    limit = "no limit but the memory and disk alarms of the node"
    checks = [
        _version(text, version),
        _queue_type(options),
        _time_limit(version, options),
        passed(
            "limit",
            f"queues have {limit}" if options.limit is None else f"a queue refuses jobs above {options.limit:,}",
        ),
        _alarm(connections),
        passed("heartbeat", f"a hanging process is noticed after {address.heartbeat} to {2 * address.heartbeat} s"),
        passed(
            "policies",
            "unknown: the protocol shows neither policies nor the number of nodes",
            fix="rabbitmqctl list_policies; a policy with max-length, expires or message-ttl on tc.* loses jobs",
        ),
        await _lost(connections),
    ]
    if address.scheme == "amqp" and any(host not in LOCAL_HOSTS for host, _ in address.nodes):
        checks.append(
            warned(
                "encryption", "jobs and the password are not encrypted", fix="amqps:// and a certificate on the server"
            )
        )
    return Diagnosis(server=f"RabbitMQ {text or '?'}", durability=durability, checks=tuple(checks))


def _version(text: str, version: tuple[int, ...]) -> DiagnosticCheck:
    if version and version < OLDEST:
        problem = f"{text} may lose jobs when it dead-letters them, so delays are not safe"
        return failed("version", problem, "3.10 or newer", "C1", "C16")
    return passed("version", text or "unknown")


def _queue_type(options: QueueOptions) -> DiagnosticCheck:
    if options.queue_type == "quorum":
        return passed("queues", "quorum queues: on three nodes or more, the loss of one loses no job")
    return warned(
        "queues",
        "classic queues: on one node only, and a job that kills its worker is not found without a store",
        "leave out queue_type=classic",
        "C5",
        "C12",
    )


def _time_limit(version: tuple[int, ...], options: QueueOptions) -> DiagnosticCheck:
    if version >= HAS_QUEUE_TIMEOUT and options.consumer_timeout:
        return passed("time limit", f"the broker takes back a job that runs longer than {options.consumer_timeout:,} s")
    return warned(
        "time limit",
        "the broker takes back a job that runs longer than the node's consumer_timeout, 30 minutes by default",
        fix="consumer_timeout = 86400000 in rabbitmq.conf, if tasks run longer",
    )


def _alarm(connections: Connections) -> DiagnosticCheck:
    connection = connections.sender.connection.current
    if connection is not None and connection.blocked_why:
        return failed(
            "alarm",
            f"the broker takes no jobs at the moment: {connection.blocked_why}",
            fix="give it memory or disk; workers go on meanwhile",
        )
    return passed("alarm", "nothing is blocked, as far as this connection has sent anything")


async def _lost(connections: Connections) -> DiagnosticCheck:
    count = await connections.admin.count(LOST) or 0
    if not count:
        return passed("lost", "no scheduled job has lost its queue")
    return warned(
        "lost",
        f"{count:,} scheduled jobs found their queue deleted when they were due; they wait in {LOST}",
        fix="look at them with rabbitmqadmin or the management pages; they are kept for 30 days",
    )
