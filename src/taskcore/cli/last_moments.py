"""The last moments of a worker's process: what jobs have left behind would keep it when the worker has ended.

The interpreter waits for threads that are no daemons and for child processes, asyncio for tasks and for its threads.
They are left as much time as interrupted jobs have, or what is left of the time of a stop; all is settled by then, so
ending the process loses nothing.
"""

from __future__ import annotations

import logging
import math
import os
import threading

from taskcore.toolkit.logging import logger
from taskcore.worker import signals

__all__ = ["end_process_soon"]

log = logger("taskcore.worker")

SHORTEST_END = 0.5  #: seconds for the interpreter to end


def end_process_soon(code: int, left: float = math.inf) -> None:
    """End this process in a while with this exit code, unless it ends by itself.

    :param left: the seconds until the end of a stop.
    """
    seconds = max(min(signals.CLEANUP_TIMEOUT, left), SHORTEST_END)
    timer = threading.Timer(seconds, _end, [seconds, code])
    timer.daemon = True
    timer.start()


def _end(seconds: float, code: int) -> None:
    main = threading.main_thread()
    threads = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
    log.error(
        "still running %.1f s after the worker's end, because jobs have left something behind: ending the process. %s",
        seconds,
        f"Threads that are not daemons: {', '.join(threads)}"
        if threads
        else "Look for child processes, tasks that ignore their cancellation, and functions of atexit",
    )
    logging.shutdown()
    os._exit(code)
