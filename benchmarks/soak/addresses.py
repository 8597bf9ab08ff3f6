"""What the command line names: a URL, or a kind of server that the soak starts for itself."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from taskcore.faults import NatsServer, PostgresServer, RabbitServer, RedisServer, Server, ValkeyServer

__all__ = ["Endpoint", "Unusable", "broker_endpoint", "endpoint_through", "store_endpoint", "target_of"]

BROKERS: dict[str, type[Server]] = {
    "redis": RedisServer, "valkey": ValkeyServer, "nats": NatsServer, "rabbitmq": RabbitServer,
}  # fmt: skip
STORES: dict[str, type[Server]] = {
    "redis": RedisServer, "valkey": ValkeyServer, "nats": NatsServer, "postgresql": PostgresServer,
}  # fmt: skip
PORTS = {"redis": 6379, "valkey": 6379, "nats": 4222, "amqp": 5672, "postgresql": 5432, "postgres": 5432}
NO_STORE = ("rabbitmq", "amqp", "amqps")


class Unusable(ValueError):
    """A name or a URL that cannot be soaked; the text says why."""


class Endpoint(NamedTuple):
    """A broker or a store.

    :param server: the one that is to be started; None: it is there already, or needs none.
    :param url: where it is, unless it is to be started; ``sqlite`` alone stands for a file of the run.
    """

    name: str
    server: Server | None = None
    url: str = ""


def broker_endpoint(given: str, *, has_store: bool) -> Endpoint:
    """Read the first argument.

    :raises Unusable: it cannot be soaked.
    :raises ServerMissing: its program is not on this machine.
    """
    scheme = given.partition(":")[0]
    if scheme == "memory":
        raise Unusable(
            "memory:// lives in one process, and a soak kills processes; name redis, valkey, nats or rabbitmq"
        )
    if scheme in NO_STORE and not has_store:
        raise Unusable("RabbitMQ keeps no keys and results: add --store sqlite, or another store")
    return _endpoint(given, BROKERS)


def store_endpoint(given: str) -> Endpoint:
    """Read ``--store``.

    :raises Unusable: it cannot be soaked.
    :raises ServerMissing: its program is not on this machine.
    """
    if given.partition(":")[0] in {"memory", "none"}:
        raise Unusable("the records have to outlive a process: name sqlite, postgresql, redis or nats")
    return Endpoint("sqlite", url="sqlite") if given == "sqlite" else _endpoint(given, STORES)


def _endpoint(given: str, servers: dict[str, type[Server]]) -> Endpoint:
    if "://" in given:
        return Endpoint(urlsplit(given).scheme, url=given)
    kind, _, version = given.partition(":")
    if kind not in servers:
        raise Unusable(f"{given!r} is neither a URL nor one of {', '.join(servers)}, such as redis or redis:8.0")
    # With everysec a server that waits for its disk answers before it writes; what is killed then has lost up to 2 s.
    config = {"appendfsync": "always"} if issubclass(servers[kind], RedisServer) else {}
    server = servers[kind](version=version, config=config)
    return Endpoint(f"{kind} {server.version}", server)


def target_of(url: str) -> tuple[str, int] | None:
    """Return the host and port that a proxy can stand before; None where one cannot: TLS, several hosts, a file."""
    parts = urlsplit(url)
    if parts.scheme not in PORTS or "," in parts.netloc or not parts.hostname:
        return None
    return parts.hostname, parts.port or PORTS[parts.scheme]


def endpoint_through(url: str, port: int) -> str:
    """Return the URL of the same endpoint through a proxy on this machine."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login}{at}127.0.0.1:{port}").geturl()
