"""Where functions run: in the event loop, in a thread, or in a process of the worker's own.

``runners.py`` chooses one, ``threads.py`` the pool of threads, ``processes.py`` the pool of processes. ``process.py``
is one process as its worker sees it, ``child.py`` the program that runs there. ``frames.py`` is what the two exchange,
``outcomes.py`` what an answer means, ``values.py`` when a function has returned, ``output.py`` what becomes of the text
that the process prints.
"""

from taskcore.worker.runners.runners import Executors, require_processes
from taskcore.worker.runners.values import FINISHED, finish

__all__ = ["FINISHED", "Executors", "finish", "require_processes"]
