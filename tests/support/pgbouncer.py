"""A private PgBouncer in front of a PostgreSQL server, in either of its modes."""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

from taskcore.faults import PostgresServer
from taskcore.faults.postgres import PROTOCOL, USER, _as_unprivileged, _unprivileged
from taskcore.faults.servers import Server
from taskcore.faults.sockets import HOST, ask
from tests.support.real import require

__all__ = ["VERSIONS", "Bounce", "PgBouncer", "bounces"]

VERSIONS = ("", "1.24")  #: the system's knows no prepared statements; 1.24 keeps them apart by default


class PgBouncer(Server):
    """Lets every user in, and shares its sessions as ``pool_mode`` says: ``session`` or ``transaction``."""

    program = "pgbouncer"

    def __init__(self, server: PostgresServer, *, version: str = "", **config: str | int) -> None:
        super().__init__(version=version, config=config)
        self._server = server

    @property
    def url(self) -> str:
        """That of the server, through here."""
        return self._server.url.replace(f":{self._server.port}/", f":{self.port}/")

    def _prepare(self) -> None:
        settings = {
            "listen_addr": HOST, "listen_port": self.port, "unix_socket_dir": "", "auth_type": "any",
        } | self.config  # fmt: skip
        lines = [
            "[databases]",
            f"* = host={HOST} port={self._server.port} user={USER}",
            "[pgbouncer]",
            *(f"{name} = {value}" for name, value in settings.items()),
        ]
        file = self._folder / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        if os.getuid() == 0:  # it does not run as root either
            for path in (self._folder, file):
                os.chown(path, _unprivileged().pw_uid, _unprivileged().pw_gid)

    def _command(self) -> Sequence[str | Path]:
        return _as_unprivileged([self.binary, self._folder / "pgbouncer.ini"])

    async def _answers(self) -> bool:
        body = struct.pack("!i", PROTOCOL) + f"user\0{USER}\0database\0postgres\0\0".encode()
        return (await ask(self.port, struct.pack("!i", len(body) + 4) + body, until=b"Z")).startswith(b"R")


#: Starts one, with settings.
Bounce: TypeAlias = Callable[..., AbstractAsyncContextManager[PgBouncer]]


def bounces(server: PostgresServer, version: str) -> Bounce:
    """Start a PgBouncer of a version in front of the server that all tests share; skip without one."""
    require(PgBouncer, version)

    @asynccontextmanager
    async def start(**config: Any) -> AsyncIterator[PgBouncer]:
        async with PgBouncer(server, version=version, **config) as bouncer:
            yield bouncer

    return start
