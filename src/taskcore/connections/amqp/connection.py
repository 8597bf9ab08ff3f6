"""RabbitMQ: from a URL to connections.

    amqp://user:password@one:5672,two:5672/vhost?heartbeat=30      several nodes of one cluster; the first that answers
    amqps://…?cafile=ca.pem                                        TLS, always verified

Every option is read here or by the backend, never by the client library: what it cannot parse it takes for 0 and goes
on, and some of its options turn the verification of TLS off.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import aiormq
import aiormq.exceptions
import msgspec

from taskcore.connections.amqp.transport import Wire
from taskcore.errors import BrokerUnavailable, InvalidURL
from taskcore.toolkit.urls import mask_url

__all__ = ["OPTIONS", "Address", "Link", "parse", "whole"]

T = TypeVar("T")

PORTS = {"amqp": 5672, "amqps": 5671}
HEARTBEAT, TIMEOUT = 30, 10.0
LONGEST = 3600  #: seconds: a heartbeat above it is none
HANDSHAKE = 3.0  #: seconds that one node has to answer, before the next one is tried
TLS = ("cafile", "certfile", "keyfile")

#: What the link itself understands; a backend adds its own.
OPTIONS = {
    "heartbeat": f"whole seconds after which a silent connection counts as lost ({HEARTBEAT})",
    "timeout": f"seconds that a call to the broker may take ({TIMEOUT:g})",
    "cafile": "amqps: certificates to trust instead of the system's",
    "certfile": "amqps: our own certificate",
    "keyfile": "amqps: the key of our certificate",
}


class Address(msgspec.Struct, frozen=True):
    """Everything in a URL that is about connections.

    :param url: without its secrets, for texts.
    :param nodes: host and port of each.
    """

    url: str
    scheme: str
    nodes: tuple[tuple[str, int], ...]
    user: str
    password: str
    vhost: str
    heartbeat: int
    timeout: float
    cafile: str | None
    certfile: str | None
    keyfile: str | None

    def __repr__(self) -> str:
        return f"Address({self.url!r})"


def parse(url: str, known: dict[str, str]) -> tuple[Address, dict[str, str]]:
    """The address in a URL, and the options in it that are not the link's.

    :param known: those other options, by name, and what they mean.
    :raises InvalidURL: what is wrong, each problem in a line of its own (TC103).
    """
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    problems = [
        f"unknown option {name!r}; {parts.scheme}:// knows: {', '.join([*OPTIONS, *known])}"
        for name in options
        if name not in OPTIONS and name not in known
    ]
    problems += [f"{name} is given twice" for name in options if sum(other == name for other, _ in pairs) > 1]
    if parts.fragment:
        problems.append("a URL of RabbitMQ has no #fragment; write # in a password as %23")
    userinfo, _, places = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    nodes: list[tuple[str, int]] = []
    for place in places.split(","):
        node = _node(place, PORTS[parts.scheme])
        if node is None:
            problems.append(f"{place!r} is not host or host:port")
        else:
            nodes.append(node)
    path = parts.path.removeprefix("/")
    if "/" in path:
        problems.append(f"the virtual host {path!r} has a / in it; write it as %2F")
    heartbeat = _number("heartbeat", options.get("heartbeat", str(HEARTBEAT)), 1, LONGEST, problems, whole=True)
    timeout = _number("timeout", options.get("timeout", str(TIMEOUT)), 0.1, LONGEST, problems)
    if parts.scheme != "amqps":
        problems += [f"{name} needs amqps://" for name in TLS if name in options]
    if "keyfile" in options and "certfile" not in options:
        problems.append("keyfile needs certfile")
    if problems:
        raise InvalidURL(
            f"cannot use the URL {mask_url(url)!r}",
            facts=problems,
            fix="amqp://user:password@host:5672/vhost?heartbeat=30",
        )
    address = Address(
        url=mask_url(url),
        scheme=parts.scheme,
        nodes=tuple(nodes),
        user=unquote(user) or "guest",
        password=unquote(password) or "guest",
        vhost=unquote(path) or "/",
        heartbeat=int(heartbeat),
        timeout=timeout,
        cafile=options.get("cafile"),
        certfile=options.get("certfile"),
        keyfile=options.get("keyfile"),
    )
    return address, {name: value for name, value in options.items() if name in known}


def _node(place: str, port: int) -> tuple[str, int] | None:
    try:
        split = urlsplit(f"//{place}")
        host, given = split.hostname, split.port
    except ValueError:
        return None
    return (host, given or port) if host and not split.path else None


def _number(name: str, text: str, low: float, high: float, problems: list[str], *, whole: bool = False) -> float:
    """A number within its bounds, or a problem more."""
    try:
        value = float(int(text) if whole else float(text))
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        problems.append(f"{name}: expected {kind} of seconds from {low:g} to {high:g}, got {text!r}")
        return low
    return value


class Link:
    """Opens connections to one address."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._first = 0  # the node that answered last

    async def connect(self, purpose: str) -> Wire:
        """A new connection, to the first node that answers; all of them are tried.

        :param purpose: what the server's own tools show as its name.
        :raises BrokerUnavailable: none of them does, or we may not come in.
        """
        address, facts = self.address, list[str]()
        context = await asyncio.to_thread(self._tls) if address.scheme == "amqps" else None
        fix = "is it running, and are host, port, user, password and virtual host right?"
        for turn in range(len(address.nodes)):
            index = (self._first + turn) % len(address.nodes)
            host, port = address.nodes[index]
            try:
                wire = await whole(self._connect(host, port, purpose, context), min(HANDSHAKE * 2, address.timeout))
            except (aiormq.exceptions.AMQPError, OSError, EOFError, TimeoutError) as error:
                facts.append(f"{host}:{port}: {_why(error)}")
                if _is_about_tls(error):
                    fix = "cafile has to be who signed its certificate, the host a name in it, the port one for TLS"
            else:
                self._first = index
                return wire
        raise BrokerUnavailable(
            f"RabbitMQ at {address.url} cannot be reached",
            facts=facts,
            fix=fix,
        )

    async def _connect(self, host: str, port: int, purpose: str, context: ssl.SSLContext | None) -> Wire:
        address = self.address
        place = f"[{host}]" if ":" in host else host
        who = f"{quote(address.user, safe='')}:{quote(address.password, safe='')}"
        options = f"heartbeat={address.heartbeat}&name={quote('taskcore ' + purpose)}"
        url = f"{address.scheme}://{who}@{place}:{port}/{quote(address.vhost, safe='')}?{options}"
        return await Wire.open(url, host, port, context, heartbeat=address.heartbeat)

    def _tls(self) -> ssl.SSLContext:
        address = self.address
        try:
            context = ssl.create_default_context(cafile=address.cafile)
            if address.certfile is not None:
                context.load_cert_chain(address.certfile, address.keyfile)
        except OSError as error:  # ssl's own errors are some, too
            files = {"cafile": address.cafile, "certfile": address.certfile, "keyfile": address.keyfile}
            raise BrokerUnavailable(
                f"RabbitMQ at {address.url} is not tried, because its certificates cannot be read",
                facts=[_why(error), *(f"{name}: {path}" for name, path in files.items() if path)],
                fix="give the paths of PEM files that this process may read, and a key that belongs to its certificate",
            ) from error
        return context

    @contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Nothing of the client library leaves this block: its errors become BrokerUnavailable."""
        try:
            yield
        except BrokerUnavailable:  # which is a ConnectionError, too
            raise
        except (aiormq.exceptions.AMQPError, OSError, EOFError, TimeoutError, RuntimeError) as error:
            fix = "see the broker's log; taskcore doctor says how it is set up"
            if isinstance(error, aiormq.exceptions.ChannelAccessRefused):
                fix = "give this user the permission to configure, write or read it: rabbitmqctl set_permissions"
            raise BrokerUnavailable(
                f"{what} failed: RabbitMQ at {self.address.url}", facts=[_why(error)], fix=fix
            ) from error


async def whole(work: Coroutine[Any, Any, T], within: float) -> T:
    """Do it to its end or to its time limit, even if whoever waits for it gives up.

    The client library closes a channel, and with it everything that others do there, when a call on it is cancelled.

    :raises TimeoutError: it did not end.
    :raises ConnectionError: the library gave up because the connection is gone.
    """

    async def bounded() -> T:
        async with asyncio.timeout(within):
            return await work

    task = asyncio.ensure_future(bounded())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait({task})
    if task.cancelled():
        raise ConnectionError("the connection was closed meanwhile")
    return task.result()


def _is_about_tls(error: BaseException) -> bool:
    """Whether the handshake of TLS failed, also if the client library has wrapped that."""
    return isinstance(error, ssl.SSLError) or (error.__cause__ is not None and _is_about_tls(error.__cause__))


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    if isinstance(error, aiormq.exceptions.ProbableAuthenticationError):
        return f"it refused us: {error}"
    if isinstance(error, aiormq.exceptions.InvalidFrameError):  # a goodbye, where its yes was expected
        return "it refused the virtual host: there is none of this name, or this user has no permission in it"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
