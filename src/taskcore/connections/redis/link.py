"""All connections of one backend or store to a Redis: a server, the primary that sentinels name, or a cluster."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Self

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from taskcore.connections.loops import require_asyncio
from taskcore.connections.redis.address import RedisAddress, RedisOptions, read_url
from taskcore.connections.redis.connection import Command, RedisConnection, Script
from taskcore.connections.redis.refusals import CommandRefused, ReplyLost, SlotMoving, error_text, refused
from taskcore.connections.redis.sockets import TcpConnection, TlsConnection, UnixConnection
from taskcore.errors import BrokerUnavailable
from taskcore.toolkit.timeouts import SharedTimer

__all__ = ["RedisLink"]

MAX_REDIRECTS: Final = 5  #: times that a command follows its key to another node
REDIRECT_PAUSE: Final = 0.05  #: seconds before a slot that is being moved is asked again
OLDEST_VERSION: Final = (7, 0)  #: the first version that works


class RedisLink:
    """Connections by purpose, made when they are needed; commands go to the node that has their key.

    :param url: see :mod:`taskcore.connections.redis.address`.
    :raises InvalidURL: the URL has an unknown or impossible part (TC103).
    """

    def __init__(self, url: str) -> None:
        self.options: RedisOptions = read_url(url)
        self._closed = False
        self._connections: dict[tuple[str, RedisAddress | None], RedisConnection] = {}
        self._timer = SharedTimer()
        self._slots: dict[int, RedisAddress] = {}  # a cluster's map
        self._named: RedisAddress | None = None  # the primary that the sentinels named last

    async def __aenter__(self) -> Self:
        """Connect once, to learn that the server can be reached and is new enough.

        :raises BrokerUnavailable: it cannot be reached, or is too old.
        """
        require_asyncio("redis", "redis-py")
        self._closed = False
        try:
            [info] = await self.call("ask", "", ("INFO", "server"))
            self._check_version(info)
        except BaseException:
            await self.close()
            raise
        return self

    def _check_version(self, info: bytes) -> None:
        found = re.search(r"redis_version:(\d+)\.(\d+)", info.decode())
        if found is not None and (int(found[1]), int(found[2])) < OLDEST_VERSION:
            raise BrokerUnavailable(
                f"the server at {self.options.shown} is Redis {found[1]}.{found[2]}", fix="7.0 is the oldest that works"
            )

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect; until the link is entered anew it makes no connection."""
        self._closed = True
        while self._connections:
            await self._connections.popitem()[1].close()
        self._timer.close()

    @property
    def is_cluster(self) -> bool:
        """Whether keys live on several nodes, so that one script cannot see all of them."""
        return self.options.kind == "cluster"

    # ── commands ──

    async def call(self, purpose: str, key: str, *commands: Command, timeout: float | None = None) -> list[Any]:
        """Send commands about one key to the node that has it; return their replies.

        :raises CommandRefused: the server refused and changed nothing.
        :raises ReplyLost: perhaps they were carried out.
        :raises BrokerUnavailable: they were not.
        """
        if not self.is_cluster:
            return await self._connection(purpose, None).call(*commands, timeout=timeout)
        return await self._follow(purpose, key, commands, timeout)

    async def run(
        self, purpose: str, script: Script, keys: Sequence[str], arguments: Sequence[Any], *after: Command
    ) -> list[Any]:
        """Run a script on the node that has its keys (all, by their hash tag), and commands behind it; all replies.

        Raises as ``call``.
        """
        try:
            return await self.call(purpose, keys[0], ("EVALSHA", script.sha, len(keys), *keys, *arguments), *after)
        except CommandRefused as answer:
            if answer.kind != "NOSCRIPT":
                raise
        return await self.call(purpose, keys[0], ("EVAL", script.text, len(keys), *keys, *arguments), *after)

    async def hang_up(self, purpose: str) -> None:
        """Disconnect the connections of a purpose that is over."""
        for name in [name for name in self._connections if name[0] == purpose]:
            await self._connections.pop(name).close()

    async def connect(self, key: str = "") -> AbstractConnection:
        """Make a connection to the node that has the key, for subscriptions; the caller disconnects it.

        :raises BrokerUnavailable: it cannot be made.
        """
        try:
            connection = await self._connect("subscribe", await self._owner(key) if self.is_cluster else None)
        except BrokerUnavailable:
            self._slots.clear()  # as in _follow: the next attempt asks which node has it now
            raise
        if self._closed:
            await connection.disconnect(nowait=True)
            raise self._was_closed()
        return connection

    async def nodes(self) -> Sequence[RedisAddress | None]:
        """Return every primary: for questions about all keys."""
        if not self.is_cluster:
            return [None]
        await self._read_map()
        return sorted(set(self._slots.values()))

    async def call_node(self, node: RedisAddress | None, *commands: Command) -> list[Any]:
        """Send commands to one of the ``nodes``; raises as ``call``."""
        return await self._connection("ask", node).call(*commands)

    # ── the node that has a key ──

    async def _follow(self, purpose: str, key: str, commands: Sequence[Command], timeout: float | None) -> list[Any]:
        """Send, and follow the redirections of a cluster whose slots are on the move."""
        owner = await self._owner(key)
        asking: Sequence[Command] = ()
        again: CommandRefused | None = None
        for _ in range(MAX_REDIRECTS):
            try:
                replies = await self._connection(purpose, owner).call(*asking, *commands, timeout=timeout)
                return replies[len(asking) :]
            except ReplyLost:
                self._slots.clear()  # that node may be gone for ever; the others know which node has its slots now
                raise
            except CommandRefused as answer:
                asking = (("ASKING",),) if answer.kind == "ASK" else ()
                if answer.kind in {"ASK", "MOVED"}:
                    owner = _address_in(answer.says, owner)
                elif answer.kind in {"TRYAGAIN", "CLUSTERDOWN"}:
                    again = answer
                    await asyncio.sleep(REDIRECT_PAUSE)
                else:
                    raise
                if answer.kind == "MOVED":
                    self._slots[key_slot(key.encode())] = owner
            except BrokerUnavailable:
                self._slots.clear()
                owner = await self._owner(key)
        raise again or SlotMoving(
            f"no node of the cluster at {self.options.shown} accepts {key!r}",
            facts=[f"asked {MAX_REDIRECTS} times; its slot is being moved, or the cluster is being repaired"],
        )

    async def _owner(self, key: str) -> RedisAddress:
        slot = key_slot(key.encode())
        if slot not in self._slots:
            await self._read_map()
        owner = self._slots.get(slot)
        if owner is None:
            raise BrokerUnavailable(f"no node of the cluster at {self.options.shown} has slot {slot}")
        return owner

    async def _read_map(self) -> None:
        problem: BrokerUnavailable | None = None
        for seed in dict.fromkeys([*self._slots.values(), *self.options.seeds]):
            try:
                [ranges] = await self._connection("ask", seed).call(("CLUSTER", "SLOTS"))
            except BrokerUnavailable as error:
                problem = error
                continue
            if ranges:
                self._slots.clear()
                for first, last, node, *_ in ranges:
                    owner = RedisAddress(node[0].decode() or seed.host, node[1])
                    self._slots.update(dict.fromkeys(range(first, last + 1), owner))
                return
        raise problem or BrokerUnavailable(f"the cluster at {self.options.shown} has no slots yet")

    # ── connections ──

    def _connection(self, purpose: str, address: RedisAddress | None) -> RedisConnection:
        connection = self._connections.get((purpose, address))
        if connection is None and self._closed:
            raise self._was_closed()
        if connection is None:
            connection = self._connections[purpose, address] = RedisConnection(
                partial(self._connect, purpose, address), self._timer, self.options
            )
        return connection

    def _was_closed(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"the connections to Redis at {self.options.shown} were closed")

    async def _connect(self, purpose: str, address: RedisAddress | None) -> AbstractConnection:
        options = self.options
        login = {"username": options.username, "password": options.password, "db": options.database}
        if purpose == "sentinel":
            login = {"username": options.sentinel_username, "password": options.sentinel_password}
        if options.kind != "sentinel" or address is not None:
            return await self._open(address or options.seeds[0], **login)
        while True:
            primary = await self._primary()
            last, self._named = self._named, primary
            if last not in {None, primary}:  # the old primary may live on without knowing that it was replaced
                for (_, known), connection in tuple(self._connections.items()):
                    if known is None:
                        await connection.drop()
            opened = await self._open(primary, **login)
            if primary == self._named:
                return opened
            await opened.disconnect(nowait=True)  # another one was named while this one was connected to

    async def _primary(self) -> RedisAddress:
        """Ask the sentinels for the primary."""
        options, facts = self.options, list[str]()
        question = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", options.service)
        for sentinel in options.seeds:
            try:
                [found] = await self._connection("sentinel", sentinel).call(question)
            except BrokerUnavailable as error:
                facts.append(f"sentinel {sentinel}: {error}")
                continue
            if found:
                return RedisAddress(found[0].decode(), int(found[1]))
            facts.append(f"sentinel {sentinel} knows no {options.service!r}")
        raise BrokerUnavailable(
            f"no sentinel names the primary of {options.service!r}",
            facts=facts,
            fix=f"{' '.join(question)}, on one of them, has to answer",
        )

    async def _open(self, address: RedisAddress, **login: Any) -> AbstractConnection:
        """Connect and log in; a connection that is not ready in time is closed, or it would stay open."""
        options = self.options
        settings: dict[str, Any] = {
            "socket_timeout": None,  # RedisConnection limits a whole exchange, instead of each of its steps
            "socket_connect_timeout": options.connect_timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,  # one shape of replies for every server
            **login,
        }
        if not address.port:
            connection: AbstractConnection = UnixConnection(path=address.host, **settings)
        else:
            settings |= {"host": address.host, "port": address.port, "socket_keepalive": True}
            connection = TcpConnection(**settings) if options.tls is None else TlsConnection(**settings, **options.tls)
        try:
            async with asyncio.timeout(max(options.connect_timeout, options.timeout)):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await connection.disconnect(nowait=True)
            if isinstance(error, AuthenticationError | BusyLoadingError | ResponseError):
                raise refused(error, str(address)) from error
            if isinstance(error, RedisError | OSError):
                where = f"-h {address.host} -p {address.port}" if address.port else f"-s {address.host}"
                silent = type(error) is TimeoutError  # the library's own, of its connect, is another class
                limit = max(options.connect_timeout, options.timeout)
                raise BrokerUnavailable(
                    f"cannot reach Redis at {address}",
                    facts=[
                        f"connected, but no answer for {limit:g} s" if silent else error_text(error),
                        f"the URL is {options.shown}",
                    ],
                    fix=f"{'is it stopped or overloaded' if silent else 'does it run'}?  redis-cli {where} ping",
                ) from error
            raise
        return connection


def _address_in(answer: str, near: RedisAddress) -> RedisAddress:
    """Read ``MOVED 3999 host:port``; without a host it is the node that answered."""
    host, _, port = answer.rpartition(" ")[2].rpartition(":")
    return RedisAddress(host or near.host, int(port))
