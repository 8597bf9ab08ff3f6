"""A Redis Cluster of a few masters on this machine, whose slots can be moved, also half-way.

async with RedisCluster() as cluster:
    app = App(cluster.url)                          redis+cluster://host:port,host:port,host:port/
    await cluster.move_slot("some-key", 2)          its slot belongs to the third server now: MOVED
    await cluster.begin_move("some-key", 0)         the owner says ASK for what it has not, or no longer
    await cluster.move_keys("some-key", 0, limit=1)
    await cluster.end_move("some-key", 0)
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Final

from taskcore.faults.redis_sets import until
from taskcore.faults.resp import command
from taskcore.faults.server_set import ServerSet
from taskcore.faults.servers import RedisServer
from taskcore.faults.sockets import HOST, free_port

__all__ = ["SLOTS", "RedisCluster", "slot_of"]

SLOTS: Final = 16_384
MIGRATE_KEYS = 100  #: keys that one MIGRATE moves


def slot_of(key: str | bytes) -> int:
    """Compute the slot of a key: that of the text between its first braces, if there is any."""
    data = key.encode() if isinstance(key, str) else key
    start = data.find(b"{")
    end = data.find(b"}", start + 1)
    if start >= 0 and end > start + 1:
        data = data[start + 1 : end]
    return crc_hqx(data, 0) % SLOTS


class RedisCluster(ServerSet):
    """Masters without replicas; each has its share of the slots.

    :param masters: how many.
    :param kind: what they are.
    :param config: settings of all of them.
    """

    def __init__(
        self,
        *,
        masters: int = 3,
        kind: type[RedisServer] = RedisServer,
        version: str = "",
        config: Mapping[str, str | int] | None = None,
    ) -> None:
        super().__init__()
        ours = {"cluster-enabled": "yes", "cluster-node-timeout": 2000, **(config or {})}
        # By default the bus is 10,000 ports further, and many free ports have no such neighbour.
        self.servers = [kind(version=version, config={"cluster-port": free_port(), **ours}) for _ in range(masters)]

    @property
    def url(self) -> str:
        """``redis+cluster://`` with all servers."""
        return f"redis+cluster://{','.join(f'{HOST}:{server.port}' for server in self.servers)}/"

    async def _start(self, exits: AsyncExitStack) -> None:
        for server in self.servers:
            await exits.enter_async_context(server)
        await self._assign()
        first = self.servers[0]
        for server in self.servers[1:]:
            await command(server.port, "CLUSTER", "MEET", HOST, first.port, first.config["cluster-port"])
        await self.agreed()

    async def agreed(self, *, within: float = 20.0) -> None:
        """Wait until every server knows all others, takes commands, and sees the slots as all others do.

        :raises BrokerUnavailable: they do not after so many seconds.
        """
        await until(self._do_agree, "the cluster agrees", within=within)

    async def owner(self, where: str | int) -> int:
        """Return the number of the server that has the slot, or the slot of this key, by its own account."""
        slot = _slot(where)
        for number, server in enumerate(self.servers):
            for start, end, (_, port, *_) in _ranges(await command(server.port, "CLUSTER", "SLOTS")):
                if start <= slot <= end and port == server.port:
                    return number
        raise LookupError(f"no node says that it has slot {slot}")

    # ── moving ──

    async def move_slot(self, where: str | int, to: int) -> None:
        """Move the slot, or the slot of this key, to the server of that number, with all its keys."""
        if await self.owner(where) == to:
            return
        await self.begin_move(where, to)
        await self.move_keys(where, to)
        await self.end_move(where, to)

    async def begin_move(self, where: str | int, to: int) -> None:
        """Mark the slot as on its way: from now on its owner says ASK for keys that it does not have."""
        slot, owner = _slot(where), await self.owner(where)
        await self._set_slot(to, slot, "IMPORTING", owner)
        await self._set_slot(owner, slot, "MIGRATING", to)

    async def move_keys(self, where: str | int, to: int, *, limit: int | None = None) -> int:
        """Move all keys of a slot whose move has begun, or at most so many; how many it were."""
        source, target, moved = self.servers[await self.owner(where)], self.servers[to], 0
        while limit is None or moved < limit:
            count = MIGRATE_KEYS if limit is None else min(MIGRATE_KEYS, limit - moved)
            keys = await command(source.port, "CLUSTER", "GETKEYSINSLOT", _slot(where), count)
            if not keys:
                break
            await command(source.port, "MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        return moved

    async def end_move(self, where: str | int, to: int) -> None:
        """Tell every node which one has the slot now, the new owner first, and wait until all agree."""
        numbers = sorted(range(len(self.servers)), key=lambda number: number != to)
        for number in numbers:
            await self._set_slot(number, _slot(where), "NODE", to)
        await self.agreed()

    async def _set_slot(self, number: int, slot: int, state: str, node: int) -> None:
        port = self.servers[number].port
        await command(port, "CLUSTER", "SETSLOT", slot, state, await self._id(node))

    async def _id(self, number: int) -> bytes:
        found: bytes = await command(self.servers[number].port, "CLUSTER", "MYID")
        return found

    # ── putting it together ──

    async def _assign(self) -> None:
        share = SLOTS // len(self.servers)
        for number, server in enumerate(self.servers):
            last = SLOTS - 1 if server is self.servers[-1] else (number + 1) * share - 1
            await command(server.port, "CLUSTER", "ADDSLOTSRANGE", number * share, last)
            await command(
                server.port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1
            )  # equal ones would have to be sorted out

    async def _do_agree(self) -> bool:
        views = []
        for server in self.servers:
            text: bytes = await command(server.port, "CLUSTER", "INFO")
            info = dict(line.split(":", 1) for line in text.decode().splitlines())
            if info["cluster_state"] != "ok" or int(info["cluster_known_nodes"]) != len(self.servers):
                return False
            slots = await command(server.port, "CLUSTER", "SLOTS")
            views.append(sorted((start, end, port) for start, end, (_, port, *_) in _ranges(slots)))
        return all(view == views[0] for view in views)


def _slot(where: str | int) -> int:
    return where if isinstance(where, int) else slot_of(where)


def _ranges(slots: list[list[object]]) -> list[tuple[int, int, list[object]]]:
    """Read CLUSTER SLOTS: first and last slot, and the master's host, port, …."""
    return [(start, end, master) for start, end, master, *_ in slots]  # type: ignore[misc]
