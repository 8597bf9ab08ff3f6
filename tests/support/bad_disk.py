"""A disk that fails when it is to be synced: strace makes each sync fail, whatever the disk does."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

__all__ = ["syncs_fail"]


@asynccontextmanager
async def syncs_fail(pid: int) -> AsyncIterator[None]:
    """Fail each fsync of this process, of its threads and of what it forks from now on with EIO.

    Skips the test where a process may not trace others, or strace is missing.
    """
    program = shutil.which("strace")
    if program is None:
        pytest.skip("a disk that fails needs strace")
    calls = "fsync,fdatasync,sync_file_range"
    command = [program, "-f", "-q", "-o", os.devnull, "-e", f"trace={calls}", "-e", f"inject={calls}:error=EIO"]
    async with await anyio.open_process([*command, "-p", str(pid)], stdout=None, stderr=None) as tracing:
        try:
            with anyio.fail_after(20):
                while not is_traced(pid):
                    if tracing.returncode is not None:
                        pytest.skip("a disk that fails needs the right to trace others")
                    await anyio.sleep(0.02)
            yield
        finally:
            if tracing.returncode is None:
                tracing.send_signal(signal.SIGINT)
            with anyio.CancelScope(shield=True):
                await tracing.wait()


def is_traced(pid: int) -> bool:
    """Tell whether a tracer sees every call of all threads; one that has ended meanwhile makes none."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if "TracerPid:\t0\n" in (thread / "status").read_text():
                return False
    return True
