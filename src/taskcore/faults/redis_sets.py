"""Redis with several servers: a primary with replicas, and the same watched by sentinels.

    async with RedisReplicated() as redis:
        redis.partition()                   the replica hears nothing of the primary any more
        redis.primary.kill()
        app = App((await redis.promote()).url)

    async with RedisSentinel() as redis:
        app = App(redis.url)                redis+sentinel://host:port,host:port,host:port/mymaster/0
        await redis.failover()              the primary is killed, another one is named

Every server is a ``RedisServer`` of its own, to kill, to freeze, to restart. ``kind=ValkeyServer`` makes them Valkeys.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import anyio

from taskcore.errors import BrokerUnavailable
from taskcore.faults.proxy import ChaosProxy
from taskcore.faults.resp import ErrorReply, command
from taskcore.faults.server_set import ServerSet
from taskcore.faults.servers import RedisServer, ValkeyServer
from taskcore.faults.sockets import HOST

__all__ = ["RedisReplicated", "RedisSentinel", "until"]

POLL_SECONDS = 0.05  #: seconds between two checks
#: Settings with which replicas are ready within a second.
QUICK_REPLICATION = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1}


async def until(true: Callable[[], Awaitable[bool]], what: str, *, within: float = 20.0) -> None:
    """Wait until something is true; a server that does not answer meanwhile means that it is not true yet.

    :raises BrokerUnavailable: it is not after so many seconds.
    """
    with anyio.move_on_after(within):
        while True:
            try:
                if await true():
                    return
            except (BrokerUnavailable, ErrorReply):
                pass  # it may be starting, electing or loading; only the time limit ends the wait
            await anyio.sleep(POLL_SECONDS)
    raise BrokerUnavailable(f"{what}: not within {within:g} s")


async def info(server: RedisServer, section: str) -> dict[str, str]:
    """Read a section of INFO."""
    text: bytes = await command(server.port, "INFO", section)
    pairs = (line.partition(":") for line in text.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in pairs}


class _PrimaryAndReplicas(ServerSet):
    """A primary and its replicas."""

    def __init__(
        self, replicas: int, kind: type[RedisServer], version: str, config: Mapping[str, str | int] | None
    ) -> None:
        super().__init__()
        settings = {**QUICK_REPLICATION, **(config or {})}
        self.servers = [kind(version=version, config=dict(settings)) for _ in range(1 + replicas)]
        self.primary = self.servers[0]

    @property
    def replicas(self) -> list[RedisServer]:
        """All but the primary."""
        return [server for server in self.servers if server is not self.primary]

    async def caught_up(self, *, within: float = 20.0) -> None:
        """Wait until every replica that runs has what the primary has now.

        :raises BrokerUnavailable: they do not after so many seconds.
        """
        for replica in self.replicas:
            if replica.running:
                await until(partial(_follows, replica, self.primary), "a replica catches up", within=within)


class RedisReplicated(_PrimaryAndReplicas):
    """A primary and its replicas, each behind a proxy that can hide the primary from it.

    :param replicas: how many.
    :param kind: what they are.
    :param version: as for a single server.
    :param config: settings of all of them.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        kind: type[RedisServer] = RedisServer,
        version: str = "",
        config: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__(replicas, kind, version, config)
        self.proxies: list[ChaosProxy] = []  #: between the first replica and the primary, the second and …

    @property
    def url(self) -> str:
        """That of the primary."""
        return self.primary.url

    async def _start(self, exits: AsyncExitStack) -> None:
        await exits.enter_async_context(self.primary)
        for replica in self.replicas:
            proxy = await exits.enter_async_context(ChaosProxy(HOST, self.primary.port))
            self.proxies.append(proxy)
            replica.config["replicaof"] = f"{HOST} {proxy.port}"
            await exits.enter_async_context(replica)
        await self.caught_up()

    def partition(self, replica: int = 0) -> None:
        """Cut a replica off from its primary, silently."""
        self.proxies[replica].black_hole()

    async def heal(self, replica: int = 0) -> None:
        """Let it hear the primary again, what it missed first."""
        await self.proxies[replica].heal()

    async def promote(self, replica: int = 0) -> RedisServer:
        """Make a replica the primary, whatever it missed; what was the primary goes on for itself if it lives."""
        chosen = self.replicas[replica]
        await command(chosen.port, "REPLICAOF", "NO", "ONE")
        chosen.config.pop("replicaof", None)  # so that it is one after a restart as well
        self.primary = chosen
        return chosen


async def _follows(replica: RedisServer, primary: RedisServer) -> bool:
    there, here = await info(primary, "replication"), await info(replica, "replication")
    linked = here.get("master_link_status") == "up" and here.get("master_sync_in_progress") == "0"
    return linked and int(here["slave_repl_offset"]) >= int(there["master_repl_offset"])


class RedisSentinel(_PrimaryAndReplicas):
    """A primary with replicas, and three sentinels that name another primary when it is gone.

    :param replicas: how many.
    :param down_after: seconds of silence after which a sentinel believes that the primary is gone; it asks once a
        second, so that less than that makes it see ghosts.
    :param kind: what they are, the sentinels included.
    :param config: settings of primary and replicas.
    """

    service = "mymaster"

    def __init__(
        self,
        *,
        replicas: int = 1,
        down_after: float = 1.5,
        kind: type[RedisServer] = RedisServer,
        version: str = "",
        config: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__(replicas, kind, version, config)
        watcher = _ValkeySentinel if issubclass(kind, ValkeyServer) else _Sentinel
        self.sentinels = [watcher(version=version) for _ in range(3)]
        self._down_after = down_after

    @property
    def url(self) -> str:
        """``redis+sentinel://`` with all sentinels, the name of the service, and a database."""
        return f"redis+sentinel://{','.join(f'{HOST}:{one.port}' for one in self.sentinels)}/{self.service}/0"

    async def _start(self, exits: AsyncExitStack) -> None:
        await exits.enter_async_context(self.primary)
        for replica in self.replicas:
            replica.config["replicaof"] = f"{HOST} {self.primary.port}"
            await exits.enter_async_context(replica)
        await self.caught_up()
        for sentinel in self.sentinels:
            sentinel.watch(self.service, self.primary.port, len(self.sentinels) // 2 + 1, self._down_after)
            await exits.enter_async_context(sentinel)
        await until(self._is_known, "the sentinels find each other")  # before, they could not name another primary

    async def failover(self, *, within: float = 40.0) -> RedisServer:
        """Kill the primary, and wait until all sentinels name another one that takes writes.

        The killed one may be restarted: it believes to be the primary until a sentinel tells it otherwise.

        :raises BrokerUnavailable: none is named after so many seconds.
        """
        old = self.primary
        old.kill()
        await until(partial(self._is_replaced, old), "the sentinels name another primary", within=within)
        self.primary.config.pop("replicaof", None)
        return self.primary

    async def _is_known(self) -> bool:
        others, replicas = len(self.sentinels) - 1, len(self.replicas)
        return all(
            int(view[b"num-other-sentinels"]) == others and int(view[b"num-slaves"]) == replicas
            for view in await self._calm_views()
        )

    async def _is_replaced(self, old: RedisServer) -> bool:
        named = {int(view[b"port"]) for view in await self._calm_views()}
        found = [server for server in self.servers if named == {server.port} and server is not old]
        if not found or (await info(found[0], "replication")).get("role") != "master":
            return False
        self.primary = found[0]
        return True

    async def _calm_views(self) -> list[dict[bytes, bytes]]:
        """Ask each sentinel what it says about the primary.

        :raises BrokerUnavailable: one of them is in the middle of something.
        """
        views = []
        for sentinel in self.sentinels:
            flat = await command(sentinel.port, "SENTINEL", "MASTER", self.service)
            views.append(dict(zip(flat[::2], flat[1::2], strict=True)))
        if any(view[b"flags"] != b"master" for view in views):
            raise BrokerUnavailable("a sentinel is not content with the primary")
        return views


class _Sentinel(RedisServer):
    """One that watches; it keeps what it knows in its configuration file."""

    _watched: Sequence[str] = ()

    def watch(self, service: str, port: int, quorum: int, down_after: float) -> None:
        """Set what to watch, once it is started."""
        self._watched = [
            f"sentinel monitor {service} {HOST} {port} {quorum}",
            f"sentinel down-after-milliseconds {service} {int(down_after * 1000)}",
            f"sentinel failover-timeout {service} 2000",
        ]

    @property
    def _file(self) -> Path:
        return self.data / "sentinel.conf"

    def _prepare(self) -> None:
        if not self._file.exists():
            self._file.write_text("\n".join([*self._watched, ""]))

    def _command(self) -> Sequence[str | Path]:
        return [self.binary, self._file, "--sentinel", "--port", str(self.port), "--bind", HOST, "--dir", self.data]


class _ValkeySentinel(_Sentinel, ValkeyServer):
    """The same, of Valkey."""
