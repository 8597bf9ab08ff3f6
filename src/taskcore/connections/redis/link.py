"""RedisLink: lines to the server that has a key, whoever that is at the moment.

    one server     its address
    Sentinel       whom the sentinels call the primary, asked at each new connection
    Cluster        who owns the key's slot; the map is read from the nodes, and corrected when one of them says MOVED

Lines are for a purpose each (enqueueing, settling, waiting, …), so that nobody waits behind somebody who waits.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AuthenticationError, BusyLoadingError, RedisError, ResponseError

from taskcore.connections.loops import require_asyncio
from taskcore.connections.redis.address import Address, Options, read_url, tls_arguments
from taskcore.connections.redis.connection import Command, Denied, Line, Script, Unanswered, denied
from taskcore.connections.redis.sockets import TcpConnection, TlsConnection, UnixConnection
from taskcore.errors import BrokerUnavailable

__all__ = ["RedisLink"]

REDIRECTS = 5  #: how often a command follows its key to another node
PAUSE = 0.05  #: seconds before a slot that is being moved is asked again
OLDEST = (7, 0)  #: the first version that works


class RedisLink:
    """Connections to one Redis: a server, what sentinels watch, or a cluster.

    :param url: see :mod:`taskcore.connections.redis.address`.
    :raises InvalidURL: it cannot be meant (TC103).
    """

    def __init__(self, url: str) -> None:
        self.options: Options = read_url(url)
        self._closed = False
        self._lines: dict[tuple[str, Address | None], Line] = {}
        self._slots: dict[int, Address] = {}  # a cluster's map
        self._last: Address | None = None  # whom the sentinels named last

    async def __aenter__(self) -> Self:
        """Connect once, to learn that it can be done, and that the server is new enough.

        :raises BrokerUnavailable: it cannot be.
        """
        require_asyncio("redis", "redis-py")
        self._closed = False
        try:
            await self._look()
        except BaseException:
            await self.close()
            raise
        return self

    async def _look(self) -> None:
        [info] = await self.call("ask", "", ("INFO", "server"))
        found = re.search(rb"redis_version:(\d+)\.(\d+)", info)
        if found is not None and (int(found[1]), int(found[2])) < OLDEST:
            version = b".".join(found.groups()).decode()
            raise BrokerUnavailable(
                f"the server at {self.options.shown} is Redis {version}", fix="7.0 is the oldest that works"
            )

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnect, for good: until it is entered anew there are no connections."""
        self._closed = True
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.close()

    @property
    def is_cluster(self) -> bool:
        """Whether keys live on several nodes, so that one script cannot see all of them."""
        return self.options.kind == "cluster"

    # ── commands ──

    async def call(self, purpose: str, key: str, *commands: Command, patience: float | None = None) -> list[Any]:
        """Send commands about one key to whoever has it; their replies.

        :raises Denied: the server refused and changed nothing.
        :raises Unanswered: perhaps it was carried out.
        :raises BrokerUnavailable: it was not.
        """
        if not self.is_cluster:
            return await self._line(purpose, None).call(*commands, patience=patience)
        return await self._follow(purpose, key, commands, patience)

    async def run(
        self, purpose: str, script: Script, keys: Sequence[str], arguments: Sequence[Any], *after: Command
    ) -> list[Any]:
        """Run a script on whoever has the keys (all of them, by their hash tag), and commands behind it; all replies.

        Raises as ``call``.
        """
        try:
            return await self.call(purpose, keys[0], ("EVALSHA", script.sha, len(keys), *keys, *arguments), *after)
        except Denied as answer:
            if answer.kind != "NOSCRIPT":
                raise
        return await self.call(purpose, keys[0], ("EVAL", script.text, len(keys), *keys, *arguments), *after)

    async def hang_up(self, purpose: str) -> None:
        """Disconnect the lines of a purpose that is over."""
        for name in [name for name in self._lines if name[0] == purpose]:
            await self._lines.pop(name).close()

    async def connect(self, key: str = "") -> AbstractConnection:
        """A connection to whoever has the key, for uses of its own (subscriptions); the caller disconnects it.

        :raises BrokerUnavailable: it cannot be had.
        """
        try:
            connection = await self._connect(await self._owner(key) if self.is_cluster else None)
        except BrokerUnavailable:
            self._slots.clear()  # as in _follow: the next try asks who has it now
            raise
        if self._closed:
            await connection.disconnect(nowait=True)
            raise self._gone()
        return connection

    async def nodes(self) -> Sequence[Address | None]:
        """Every primary: for questions about all keys."""
        if not self.is_cluster:
            return [None]
        await self._read_map()
        return sorted(set(self._slots.values()))

    async def call_node(self, node: Address | None, *commands: Command) -> list[Any]:
        """Send commands to one of the ``nodes``; raises as ``call``."""
        return await self._line("ask", node).call(*commands)

    # ── who has a key ──

    async def _follow(self, purpose: str, key: str, commands: Sequence[Command], patience: float | None) -> list[Any]:
        """Send, and follow the redirections of a cluster whose slots are on the move."""
        owner = await self._owner(key)
        asking: Sequence[Command] = ()
        again: Denied | None = None
        for _ in range(REDIRECTS):
            try:
                replies = await self._line(purpose, owner).call(*asking, *commands, patience=patience)
                return replies[len(asking) :]
            except Unanswered:
                self._slots.clear()  # that node may be gone for ever; the others know who has its slots now
                raise
            except Denied as answer:
                asking = (("ASKING",),) if answer.kind == "ASK" else ()
                if answer.kind in {"ASK", "MOVED"}:
                    owner = _address_in(answer.says, owner)
                elif answer.kind in {"TRYAGAIN", "CLUSTERDOWN"}:
                    again = answer
                    await asyncio.sleep(PAUSE)
                else:
                    raise
                if answer.kind == "MOVED":
                    self._slots[key_slot(key.encode())] = owner
            except BrokerUnavailable:
                self._slots.clear()
                owner = await self._owner(key)
        raise again or BrokerUnavailable(
            f"no node of the cluster at {self.options.shown} accepts {key!r}",
            facts=[f"asked {REDIRECTS} times; its slot is being moved, or the cluster is being repaired"],
        )

    async def _owner(self, key: str) -> Address:
        slot = key_slot(key.encode())
        if slot not in self._slots:
            await self._read_map()
        owner = self._slots.get(slot)
        if owner is None:
            raise BrokerUnavailable(f"nobody in the cluster at {self.options.shown} has slot {slot}")
        return owner

    async def _read_map(self) -> None:
        problem: BrokerUnavailable | None = None
        for seed in dict.fromkeys([*self._slots.values(), *self.options.seeds]):
            try:
                [ranges] = await self._line("ask", seed).call(("CLUSTER", "SLOTS"))
            except BrokerUnavailable as error:
                problem = error
                continue
            if ranges:
                self._slots.clear()
                for first, last, node, *_ in ranges:
                    owner = Address(node[0].decode() or seed.host, node[1])
                    self._slots.update(dict.fromkeys(range(first, last + 1), owner))
                return
        raise problem or BrokerUnavailable(f"the cluster at {self.options.shown} has no slots yet")

    # ── connections ──

    def _line(self, purpose: str, address: Address | None) -> Line:
        line = self._lines.get((purpose, address))
        if line is None and self._closed:
            raise self._gone()
        if line is None:
            line = self._lines[purpose, address] = Line(
                lambda: self._connect(address), timeout=self.options.timeout, shown=self.options.shown
            )
        return line

    def _gone(self) -> BrokerUnavailable:
        """For those who come, or come back, when nobody would close their connections any more."""
        return BrokerUnavailable(f"the connections to Redis at {self.options.shown} were closed")

    async def _connect(self, address: Address | None) -> AbstractConnection:
        options = self.options
        login = {"username": options.username, "password": options.password, "db": options.database}
        if options.kind != "sentinel":
            return await self._open(options.seeds[0] if address is None else address, **login)
        while True:
            primary = await self._primary()
            await self._leave(primary)
            connection = await self._open(primary, **login)
            if primary == self._last:
                return connection
            await connection.disconnect(nowait=True)  # another one was named while this one hesitated

    async def _leave(self, named: Address) -> None:
        """When another primary is named, no line stays with the old one, which may live on and know nothing of it."""
        last, self._last = self._last, named
        if last not in {None, named}:
            for line in tuple(self._lines.values()):
                await line.drop()

    async def _primary(self) -> Address:
        """Whom the sentinels call the primary."""
        facts: list[str] = []
        for sentinel in self.options.seeds:
            try:
                connection = await self._open(
                    sentinel, username=self.options.sentinel_username, password=self.options.sentinel_password
                )
                try:
                    async with asyncio.timeout(self.options.timeout):
                        await connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.options.service)
                        found = await connection.read_response(disable_decoding=True)
                finally:
                    await connection.disconnect(nowait=True)
            except (BrokerUnavailable, RedisError, OSError) as error:
                facts.append(f"sentinel {sentinel}: {error}")
                continue
            if found:
                return Address(found[0].decode(), int(found[1]))
            facts.append(f"sentinel {sentinel} knows no {self.options.service!r}")
        raise BrokerUnavailable(
            f"no sentinel names the primary of {self.options.service!r}",
            facts=facts,
            fix=f"SENTINEL GET-MASTER-ADDR-BY-NAME {self.options.service}, on one of them, has to answer",
        )

    async def _greet(self, connection: AbstractConnection) -> None:
        """Connect and log in; what was half made when its time was over is closed, or it would stay open."""
        try:
            async with asyncio.timeout(2 * self.options.connect_timeout + self.options.timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def _open(self, address: Address, **login: Any) -> AbstractConnection:
        options = self.options
        settings: dict[str, Any] = {
            "socket_timeout": None,  # one time limit for an exchange, of ours, instead of one for each of its steps
            "socket_connect_timeout": options.connect_timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,  # one shape of replies for every server
            **login,
        }
        connection: AbstractConnection
        if not address.port:
            connection = UnixConnection(path=address.host, **settings)
        else:
            settings |= {"host": address.host, "port": address.port, "socket_keepalive": True}
            kind = TcpConnection if options.tls is None else TlsConnection
            connection = kind(**settings, **tls_arguments(options))
        try:
            await self._greet(connection)
        except (AuthenticationError, BusyLoadingError, ResponseError) as error:
            raise denied(error, str(address)) from error
        except (RedisError, OSError) as error:
            raise BrokerUnavailable(
                f"cannot reach Redis at {address}",
                facts=[str(error) or type(error).__name__, f"the URL is {options.shown}"],
                fix=f"does it run?  redis-cli -h {address.host} -p {address.port} ping"
                if address.port
                else f"does it run?  redis-cli -s {address.host} ping",
            ) from error
        return connection


def _address_in(answer: str, near: Address) -> Address:
    """``MOVED 3999 host:port``; without a host it is the one that answered."""
    host, _, port = answer.rpartition(" ")[2].rpartition(":")
    return Address(host or near.host, int(port))
