"""What the server says about itself, and what that means for jobs."""

from __future__ import annotations

import re

from taskcore.backends.rabbitmq.admin import Connections
from taskcore.backends.rabbitmq.layout import LOST, QueueOptions
from taskcore.connections.amqp.address import Address
from taskcore.toolkit.diagnostics import Diagnosis, DiagnosticCheck, failed, passed, warned

__all__ = ["diagnose"]

OLDEST, HAS_QUEUE_TIMEOUT = (3, 10), (3, 12)
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


async def diagnose(connections: Connections, options: QueueOptions, durability: str) -> Diagnosis:
    """Ask the server; what the protocol does not tell is a check named unknown.

    :raises BrokerUnavailable: the server cannot be reached.
    """
    connection = await connections.admin.connection.open()
    text = str(connection.server_properties.get("version", ""))
    version = tuple(int(part) for part in re.findall(r"\d+", text)[:3])
    heartbeat = connections.connector.address.heartbeat
    checks = [
        _version(text, version),
        _queue_type(options),
        _time_limit(version, options),
        passed(
            "limit",
            "queues have no limit but the memory and disk alarms of the node"
            if options.limit is None
            else f"a queue refuses jobs above {options.limit:,}",
        ),
        _alarm(connections),
        passed("heartbeat", f"a hanging process is noticed after {2 * heartbeat} to {3 * heartbeat} s"),
        passed(
            "policies",
            "unknown: the protocol shows neither policies nor the number of nodes",
            fix="rabbitmqctl list_policies; expires, message-ttl or drop-head on tc.* loses jobs",
        ),
        _lost(await connections.admin.count(LOST) or 0),
        *_encryption(connections.connector.address),
    ]
    return Diagnosis(server=f"RabbitMQ {text or '?'}", durability=durability, checks=tuple(checks))


def _version(text: str, version: tuple[int, ...]) -> DiagnosticCheck:
    if version and version < OLDEST:
        problem = f"{text} may lose jobs when it dead-letters them, so delays are not safe"
        return failed("version", problem, "3.10 or newer", "C1", "C16")
    return passed("version", text or "unknown")


def _queue_type(options: QueueOptions) -> DiagnosticCheck:
    if options.queue_type == "quorum":
        return passed("queues", "quorum queues: on three nodes or more, the loss of one loses no job")
    problem = "classic queues: on one node only, and a job that kills its worker is not found without a store"
    return warned("queues", problem, "leave out queue_type=classic", "C5", "C12")


def _time_limit(version: tuple[int, ...], options: QueueOptions) -> DiagnosticCheck:
    if version >= HAS_QUEUE_TIMEOUT and options.consumer_timeout:
        return passed("time limit", f"the broker takes back a job that runs longer than {options.consumer_timeout:,} s")
    problem = "the broker takes back a job that runs longer than the node's consumer_timeout, 30 minutes by default"
    return warned("time limit", problem, "consumer_timeout = 86400000 in rabbitmq.conf, if tasks run longer")


def _alarm(connections: Connections) -> DiagnosticCheck:
    connection = connections.sender.connection.current
    if connection is None or not connection.blocked_why:
        return passed("alarm", "nothing is blocked, as far as this connection has sent anything")
    problem = f"the broker takes no jobs at the moment: {connection.blocked_why}"
    return failed("alarm", problem, "give it memory or disk; workers go on meanwhile")


def _lost(count: int) -> DiagnosticCheck:
    if not count:
        return passed("lost", "no scheduled job has lost its queue")
    problem = f"{count:,} scheduled jobs found their queue deleted when they were due; they wait in {LOST}"
    fix = "look at them with rabbitmqadmin or the management pages; they are kept for 30 days"
    return warned("lost", problem, fix)


def _encryption(address: Address) -> list[DiagnosticCheck]:
    if address.scheme == "amqps" or all(host in LOCAL_HOSTS for host, _ in address.nodes):
        return []
    fix = "amqps:// and a certificate on the server"
    return [warned("encryption", "jobs and the password are not encrypted", fix)]
