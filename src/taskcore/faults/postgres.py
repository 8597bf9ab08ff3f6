"""PostgresServer: a private PostgreSQL, from ``initdb`` to its end.

PostgreSQL does not run as root; a test that does starts it as ``postgres``, or where there is no such
account as `nobody`.
Each of its processes leads a group of its own, so killing and freezing go to each of them.
"""

from __future__ import annotations

import os
import pwd
import signal
import struct
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from taskcore.faults.binaries import find_binary
from taskcore.faults.servers import Server
from taskcore.faults.sockets import HOST, ask

__all__ = ["PostgresServer"]

FOLDERS = Path("/usr/lib/postgresql")  #: Debian keeps the programs of each version apart, and off the PATH
PROTOCOL = 196_608  #: 3.0
USER = "postgres"


class PostgresServer(Server):
    """PostgreSQL with its usual settings, so that a kill loses nothing that was committed; ``config`` changes them."""

    program = "postgres"
    ready_within = 30.0

    @classmethod
    def find(cls, version: str = "") -> Path:
        """Find the program, of the newest version that is installed unless one is named.

        :raises ServerMissing: it is not on this machine, or not in this version.
        """
        versions = sorted(FOLDERS.glob("*/bin"), key=lambda path: [int(part) for part in path.parent.name.split(".")])
        return find_binary(cls.program, version=version, folders=[str(path) for path in reversed(versions)])

    @property
    def url(self) -> str:
        """``postgresql://…``, as a superuser without a password."""
        return f"postgresql://{USER}@{HOST}:{self.port}/postgres"

    async def stop(self) -> None:
        """Stop it in its fast way (SIGINT): connected clients are disconnected."""
        if self._child is None:
            return
        self.resume()
        self._child.send(signal.SIGINT)
        with suppress(TimeoutError):
            await self._child.wait(self.stops_within)
        self.kill()

    def kill(self) -> None:
        """End all of its processes at once (SIGKILL), as a power cut would; what the disk has stays."""
        if self._child is not None and self._child.running:
            self._child.pause()  # so that it starts no more of them
            self._signal_family(signal.SIGKILL)
        super().kill()

    def pause(self) -> None:
        """Freeze all of its processes."""
        super().pause()
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on."""
        self._signal_family(signal.SIGCONT)
        super().resume()

    def _prepare(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        self.data.chmod(0o700)
        command: list[str | Path] = [self.binary.resolve().parent / "initdb", "-D", self.data, "-U", USER]
        if os.getuid() == 0:
            user = _unprivileged()
            for folder in (self._folder, self.data):
                os.chown(folder, user.pw_uid, user.pw_gid)
        subprocess.run(  # noqa: S603 - the server's own program
            _as_unprivileged([*command, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]),
            env={**self._environment(), "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/bin"},
            cwd=self._folder,
            check=True,
            capture_output=True,
            timeout=self.ready_within * 2,
        )

    def _command(self) -> Sequence[str | Path]:
        settings = {
            "port": self.port, "listen_addresses": HOST, "unix_socket_directories": "", "shared_buffers": "16MB",
            "autovacuum_naptime": "5s",
        } | self.config  # fmt: skip
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return _as_unprivileged([self.binary, "-D", self.data, *options])

    def _environment(self) -> Mapping[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_"))} | {
            "LANG": "C.UTF-8"
        }

    async def _answers(self) -> bool:
        body = struct.pack("!i", PROTOCOL) + f"user\0{USER}\0database\0postgres\0\0".encode()
        return (await ask(self.port, struct.pack("!i", len(body) + 4) + body, until=b"Z")).startswith(b"R")

    def _signal_family(self, number: signal.Signals) -> None:
        for pid in _children(self._child.pid) if self._child is not None and self._child.running else ():
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _as_unprivileged(command: Sequence[str | Path]) -> list[str | Path]:
    """Return the command with root's rights dropped; the process id stays the same."""
    if os.getuid() != 0:
        return list(command)
    user = _unprivileged()
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", *command]


def _unprivileged() -> pwd.struct_passwd:
    for name in (USER, "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise LookupError("root cannot run PostgreSQL, and there is no account postgres or `nobody`")


def _children(parent: int) -> list[int]:
    """List the processes that a process started."""
    if not Path("/proc/self/stat").exists():
        found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)  # noqa: S603, S607
        return [int(pid) for pid in found.stdout.split()]
    children = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                stat = (folder / "stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == parent:
                    children.append(int(folder.name))
    return children
