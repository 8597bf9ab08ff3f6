"""A cluster of RabbitMQ nodes on one machine, to kill them one by one.

async with RabbitCluster() as cluster:
app = App(cluster.url)              several hosts, so that the app finds the nodes that are left
cluster.nodes[0].kill()
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import anyio

from taskcore.faults.child import Child
from taskcore.faults.rabbitmq import RabbitServer, epmd_of
from taskcore.faults.server_set import ServerSet
from taskcore.faults.sockets import HOST, free_port

__all__ = ["RabbitCluster"]


class _Member(RabbitServer):
    """A node that finds the others by the daemon they share."""

    ready_within = 120.0

    def __init__(self, epmd: int, *, version: str, config: Mapping[str, str | int]) -> None:
        super().__init__(version=version, config=config)
        self._shared = epmd

    def _prepare(self) -> None:
        super()._prepare()
        self._epmd_port = self._shared

    def _command(self) -> Sequence[str | Path]:
        return [self.binary]


class RabbitCluster(ServerSet):
    """Nodes that know each other. Starting them takes a quarter of a minute.

    :param size: how many.
    :param config: settings of each node, by their own names.
    :raises ServerMissing: RabbitMQ is not on this machine.
    """

    def __init__(self, size: int = 3, *, version: str = "", config: Mapping[str, str | int] | None = None) -> None:
        super().__init__()
        self._epmd_port = free_port()
        self.nodes = [_Member(self._epmd_port, version=version, config=dict(config or {})) for _ in range(size)]

    @property
    def url(self) -> str:
        """``amqp://…`` with all nodes in it."""
        hosts = ",".join(f"{HOST}:{node.port}" for node in self.nodes)
        return f"amqp://guest:guest@{hosts}/"

    async def _start(self, exits: AsyncExitStack) -> None:
        self._start_daemon(exits)
        first, *others = self.nodes
        await exits.enter_async_context(first)
        for node in others:
            await exits.enter_async_context(node)
            for command in (["stop_app"], ["reset"], ["join_cluster", first.node], ["start_app"]):
                await node.control(*command, within=60.0)

    async def __aexit__(self, *exc: object) -> None:
        """Stop the nodes and their daemon."""
        with anyio.CancelScope(shield=True):
            await self._exits.aclose()

    def _start_daemon(self, exits: AsyncExitStack) -> None:
        folder = Path(tempfile.mkdtemp(prefix="taskcore-epmd-"))
        epmd = epmd_of(self.nodes[0].binary)
        command: list[str | Path] = [shutil.which(epmd) or epmd, "-address", HOST, "-port", str(self._epmd_port)]
        daemon = Child(command, output=folder / "log", environment={}, folder=folder, temporary=folder)
        daemon.start()
        exits.callback(daemon.forget)
