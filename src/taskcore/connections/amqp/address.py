"""What a URL of RabbitMQ says.

    amqp://user:password@one:5672,two:5672/vhost?heartbeat=5      the nodes of one cluster; the first that answers
    amqps://…?cafile=ca.pem                                        TLS, always verified

Every option is read here or by the backend, never by the client library: it takes what it cannot parse for 0, and some
of its options turn the verification of TLS off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import msgspec

from taskcore.toolkit.urls import Reader, mask_url, read_options, refuse_url, seconds, split_url, text, whole

__all__ = ["Address", "parse"]

PORTS = {"amqp": 5672, "amqps": 5671}
MAX_SECONDS = 3600
HEARTBEAT = 3  #: seconds; the server takes back what a silent client holds after two to three times as long
EXAMPLE = "amqp://user:password@host:5672/vhost?heartbeat=5"
TLS = {"cafile": text, "certfile": text, "keyfile": text}
OPTIONS: dict[str, Reader] = {"heartbeat": whole(1, MAX_SECONDS), "timeout": seconds(0.1, MAX_SECONDS), **TLS}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """The connection part of a URL.

    :param url: without its secrets, for texts.
    :param nodes: host and port of each.
    :param heartbeat: whole seconds; a connection that is silent for two of them is lost.
    :param timeout: seconds that one call to the broker may take.
    """

    url: str
    scheme: str
    nodes: tuple[tuple[str, int], ...]
    user: str
    password: str
    vhost: str
    heartbeat: int = HEARTBEAT
    timeout: float = 10.0
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    def __repr__(self) -> str:
        return f"Address({self.url!r})"

    def library_url(self, host: str, port: int, name: str) -> str:
        """Return the URL of one node with only the options that the library may read."""
        place = f"[{host}]" if ":" in host else host
        login = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        options = f"heartbeat={self.heartbeat}&name={quote(name)}"
        return f"{self.scheme}://{login}@{place}:{port}/{quote(self.vhost, safe='')}?{options}"


def parse(url: str, readers: Mapping[str, Reader]) -> tuple[Address, dict[str, Any]]:
    """Parse a URL: its address, and the values of the options that are not the connection's.

    :param readers: those other options.
    :raises InvalidURL: every problem, each in a line of its own (TC103).
    """
    parts = split_url(url, example=EXAMPLE)
    problems: list[str] = []
    values = read_options(parts.query, {**OPTIONS, **readers}, problems)
    if parts.fragment:
        problems.append("a URL of RabbitMQ has no #fragment; write # in a password as %23")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    nodes = [_node(host, PORTS[parts.scheme], problems) for host in hosts.split(",")]
    path = parts.path.removeprefix("/")
    if "/" in path:
        problems.append("the virtual host has a / in it; write it as %2F")  # not what it is: part of a secret, perhaps
    if parts.scheme != "amqps":
        problems += [f"{name} needs amqps://" for name in TLS if name in values]
    if "keyfile" in values and "certfile" not in values:
        problems.append("keyfile needs certfile")
    if problems:
        refuse_url(url, problems, example=EXAMPLE)
    address = Address(
        url=mask_url(url),
        scheme=parts.scheme,
        nodes=tuple(nodes),
        user=unquote(user) or "guest",
        password=unquote(password) or "guest",
        vhost=unquote(path) or "/",
        **{name: value for name, value in values.items() if name in OPTIONS},
    )
    return address, {name: value for name, value in values.items() if name in readers}


def _node(text: str, port: int, problems: list[str]) -> tuple[str, int]:
    try:
        split = urlsplit(f"//{text}")
        if split.hostname and not split.path:
            return split.hostname, split.port or port
    except ValueError:  # the port is not a number
        pass
    problems.append(f"{text!r} is not host or host:port")
    return "", 0
