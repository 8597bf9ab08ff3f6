"""New processes whenever a source file changes, for development."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from taskcore.errors import AdapterMissing
from taskcore.supervisor.supervisor import Supervisor
from taskcore.toolkit.logging import logger

__all__ = ["reload_on_change", "require_watchfiles", "start_again_on_change"]

log = logger("taskcore.supervisor")

MOST_NAMES = 3  #: of changed files, in a log line


def require_watchfiles() -> None:
    """Check that files can be watched.

    :raises AdapterMissing: watchfiles is not installed (TC102).
    """
    try:
        import watchfiles  # noqa: F401, PLC0415 - an extra
    except ImportError:
        raise AdapterMissing(
            "--reload needs watchfiles, which is not installed", fix='pip install "taskcore-framework[reload]"'
        ) from None


def start_again_on_change(directory: Path) -> NoReturn:
    """Wait for a change of a Python file below a directory, and replace this program by a new run of itself."""
    from watchfiles import PythonFilter, watch  # noqa: PLC0415 - as above

    next(watch(directory, watch_filter=PythonFilter()))
    command = [sys.executable, *sys.orig_argv[1:]]
    if os.name == "nt":  # a program that is replaced there has ended for the shell that started it
        raise SystemExit(subprocess.call(command))  # noqa: S603 - this program again
    os.execv(command[0], command)  # noqa: S606 - as above


async def reload_on_change(supervisor: Supervisor, directory: Path) -> None:
    """Replace the processes at each change of a Python file below a directory, until cancelled."""
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - as above

    async for changes in awatch(directory, watch_filter=PythonFilter()):
        names = sorted({Path(path).name for _, path in changes})
        log.info("changed: %s; starting new processes", ", ".join(names[:MOST_NAMES]))
        supervisor.replace_all()
