"""Which machine this is: a figure without it says nothing."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import anyio

from taskcore.bench.figures import MachineInfo

__all__ = ["LIBRARIES", "describe_machine", "loop_name"]

LIBRARIES = ("anyio", "msgspec", "redis", "hiredis", "nats-py", "aio-pika", "aiormq", "psycopg", "uvloop")


def loop_name() -> str:
    """Return the event loop of our worker processes: uvloop where it is installed. Senders run on asyncio's."""
    return "uvloop" if find_spec("uvloop") else "asyncio"


async def describe_machine(command: str, *, versions: Mapping[str, str] | None = None) -> MachineInfo:
    """Describe the machine that this runs on, now.

    :param versions: of servers, besides those of the libraries.
    """
    return MachineInfo(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        loop=loop_name(),
        taskcore=_version("taskcore-framework") or "(not installed)",
        commit=await _commit(),
        versions={**{name: found for name in LIBRARIES if (found := _version(name))}, **(versions or {})},
        load=tuple(round(value, 2) for value in os.getloadavg()),
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip() not in ("", "unknown"):
                return value.strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


async def _commit() -> str:
    """Return the commit of a checkout; nothing for an installed package."""
    folder = Path(__file__).parents[4]
    if not (folder / ".git").exists():
        return ""
    try:
        ran = await anyio.run_process(
            ["git", "-C", str(folder), "describe", "--always", "--dirty"], check=False, stderr=subprocess.DEVNULL
        )
    except OSError:  # no git on this machine
        return ""
    return ran.stdout.decode().strip() if ran.returncode == 0 and sys.platform != "win32" else ""
