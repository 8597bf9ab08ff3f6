"""Clearing away what a peer has left in the broker, which must not weigh on the next contestant."""

from __future__ import annotations

from collections.abc import Sequence

from taskcore.faults import Server, sockets

__all__ = ["sweep"]


async def sweep(broker: str, server: Server, queues: Sequence[str]) -> None:
    """Delete the queues that a peer has used, whatever it calls them; from Redis everything goes."""
    if broker == "redis":
        await sockets.ask(server.port, b"FLUSHALL\r\n")
        await sockets.ask(server.port, b"BGREWRITEAOF\r\n")  # now, and not in the middle of the next measurement
    elif broker == "rabbitmq":
        await _rabbitmq(server.url, queues)
    elif broker == "nats":
        await _nats(server.url, queues)
    elif broker == "postgresql":
        await _postgresql(server.url)


async def _rabbitmq(url: str, queues: Sequence[str]) -> None:
    import aiormq

    connection = await aiormq.connect(url)
    try:
        channel = await connection.channel()
        for queue in queues:
            for name in (
                queue,
                f"{queue}.DQ",
                f"{queue}.XQ",
            ):  # Dramatiq has three; a queue that is not there is no error
                await channel.queue_delete(name)
    finally:
        await connection.close()


async def _nats(url: str, queues: Sequence[str]) -> None:
    import nats

    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        for stream in await jetstream.streams_info():
            if any(queue in (stream.config.name or "") for queue in queues):
                await jetstream.delete_stream(stream.config.name or "")
    finally:
        await client.close()


async def _postgresql(url: str) -> None:
    import psycopg

    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        found = await (await connection.execute("SELECT to_regclass('procrastinate_jobs')")).fetchone()
        if found and found[0]:
            await connection.execute("TRUNCATE procrastinate_jobs CASCADE")
