"""Clusters: several servers of one kind on this machine that know each other.

async with NatsCluster() as cluster:
    app = App(f"{cluster.url}/?replicas=3")
    cluster.servers[0].kill()               one is gone, two are a majority
    await cluster.servers[0].restart()
    leader = await cluster.leader("taskcore-q-default")
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import msgspec

from taskcore.errors import BrokerUnavailable
from taskcore.faults.server_set import ServerSet
from taskcore.faults.servers import NatsServer
from taskcore.faults.sockets import HOST, ask, free_port

__all__ = ["NatsCluster"]

ELECTION_TIMEOUT = 30.0  #: seconds in which a cluster has to have leaders


class NatsCluster(ServerSet):
    """NATS servers with JetStream, joined over the loopback. Ready inside: they have elected a leader.

    :param size: how many.
    :param version: how their version has to begin; empty: whichever is found first.
    """

    def __init__(self, size: int = 3, *, version: str = "") -> None:
        super().__init__()
        ports = [free_port() for _ in range(size)]
        routes = [f"nats://{HOST}:{port}" for port in ports]
        self.servers = [
            NatsServer(
                version=version,
                config={
                    "server_name": f"n{index + 1}",
                    "cluster": {"name": "test", "listen": f"{HOST}:{port}", "routes": routes},  # type: ignore[dict-item]
                },
            )
            for index, port in enumerate(ports)
        ]

    @property
    def url(self) -> str:
        """``nats://…,…,…``."""
        return "nats://" + ",".join(f"{HOST}:{server.port}" for server in self.servers)

    async def _start(self, exits: AsyncExitStack) -> None:
        for server in self.servers:
            await exits.enter_async_context(server)
        await self.settled()

    async def settled(self) -> None:
        """Wait until JetStream answers on all servers that run.

        :raises BrokerUnavailable: it does not in time.
        """
        with anyio.move_on_after(ELECTION_TIMEOUT):
            for server in self.servers:
                while server.running and "error" in await self._ask(server, "INFO"):  # noqa: ASYNC110 - another process
                    await anyio.sleep(0.1)
            return
        raise BrokerUnavailable("the cluster has no leader", facts=[server.log(5) for server in self.servers])

    async def leader(self, stream: str) -> NatsServer:
        """Find the server that leads a stream.

        :raises LookupError: none does.
        """
        return await self._found(f"STREAM.INFO.{stream}", lambda info: [info], f"{stream} has no leader")

    async def busiest(self) -> NatsServer:
        """Find the server that leads most streams: its end is felt most.

        :raises LookupError: no stream has a leader.
        """
        return await self._found("STREAM.LIST", lambda found: found.get("streams") or [], "no stream has a leader")

    async def _found(self, what: str, streams: Callable[[Any], list[Any]], otherwise: str) -> NatsServer:
        """Find the running server that leads most of the streams in an answer."""
        with anyio.move_on_after(ELECTION_TIMEOUT):
            while True:
                for server in self.servers:
                    found = streams(await self._ask(server, what)) if server.running else []
                    leaders = Counter((stream.get("cluster") or {}).get("leader") for stream in found)
                    leading = [one for one in self.servers if one.running and leaders[one.config["server_name"]]]
                    if leading:
                        return max(leading, key=lambda one: leaders[one.config["server_name"]])
                await anyio.sleep(0.1)
        raise LookupError(otherwise)

    async def current(self, stream: str) -> None:
        """Wait until every replica of a stream has everything.

        :raises LookupError: not in time.
        """
        with anyio.move_on_after(ELECTION_TIMEOUT):
            while True:
                info = await self._ask(await self.leader(stream), f"STREAM.INFO.{stream}")
                replicas = (info.get("cluster") or {}).get("replicas") or []
                if len(replicas) == len(self.servers) - 1 and all(
                    one.get("current") and not one.get("offline") for one in replicas
                ):
                    return
                await anyio.sleep(0.1)
        raise LookupError(f"the replicas of {stream} do not catch up")

    async def _ask(self, server: NatsServer, what: str) -> dict[str, Any]:
        """Send one request to JetStream's API, in plain protocol."""
        lines = f'CONNECT {{"verbose":false}}\r\nSUB _I 1\r\nPUB $JS.API.{what} _I 0\r\n\r\n'.encode()
        with anyio.move_on_after(2.0):
            answer = await ask(server.port, lines, until=b"}\r\n", within=1.0)
            start = answer.find(b'{"type"')
            if start >= 0:
                try:
                    found: dict[str, Any] = msgspec.json.decode(answer[start : answer.rfind(b"}") + 1])
                except msgspec.DecodeError:
                    return {"error": "not whole"}
                return found
        return {"error": "no answer"}
