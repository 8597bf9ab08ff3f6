"""New processes whenever a source file changes, for development."""

from __future__ import annotations

from pathlib import Path

from taskcore.errors import AdapterMissing
from taskcore.supervisor.supervisor import Supervisor
from taskcore.toolkit.logging import logger

__all__ = ["reload_on_change", "require_watchfiles"]

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


async def reload_on_change(supervisor: Supervisor, directory: Path) -> None:
    """Replace the processes at each change of a Python file below a directory, until cancelled."""
    from watchfiles import PythonFilter, awatch  # noqa: PLC0415 - as above

    async for changes in awatch(directory, watch_filter=PythonFilter()):
        names = sorted({Path(path).name for _, path in changes})
        log.info("changed: %s; starting new processes", ", ".join(names[:MOST_NAMES]))
        supervisor.replace_all()
