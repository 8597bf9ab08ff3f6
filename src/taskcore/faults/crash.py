"""For worker children: what their environment wants of them. Imported by the child's own script, never by the library.

    # worker.py
    from taskcore.faults.crash import history_from_environment, install_from_environment

    install_from_environment()              TASKCORE_CRASH_AT="settle.ended" or "settle.ended:3", the third time
    history = history_from_environment()    TASKCORE_HISTORY="/tmp/…/worker-1.jsonl", TASKCORE_WHO="worker-1"

:class:`taskcore.faults.processes.WorkerProcess` sets these variables.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from taskcore.testing.crash_points import CRASHED, exit_at
from taskcore.testing.history import History

__all__ = ["CRASHED", "CRASH_AT", "HISTORY", "WHO", "history_from_environment", "install_from_environment"]

CRASH_AT = "TASKCORE_CRASH_AT"
HISTORY = "TASKCORE_HISTORY"
WHO = "TASKCORE_WHO"

_installed = ExitStack()  # never closed: it lasts as long as the process


def install_from_environment() -> bool:
    """End this process without any cleaning up at the crash point that the environment names; whether it names one.

    The process ends with the status CRASHED.

    :raises ValueError: the variable is neither a point nor ``point:times``.
    """
    wish = os.environ.get(CRASH_AT, "")
    if not wish:
        return False
    point, _, times = wish.partition(":")
    if times and not times.isdigit():
        raise ValueError(f'{CRASH_AT}={wish!r}: expected "point" or "point:times", such as "settle.ended:2"')
    _installed.enter_context(exit_at(point, visit=int(times or 1)))
    return True


def history_from_environment() -> History:
    """Open the history that the environment names, appended to its file; one in memory if it names none."""
    path = os.environ.get(HISTORY)
    who = os.environ.get(WHO) or f"pid-{os.getpid()}"
    return History.to_file(path, who=who) if path else History(who=who)
