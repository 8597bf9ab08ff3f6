"""Where functions run: in the event loop, in a thread, or in a process of the worker's own.

``runners.py`` is the door. ``threads.py`` is the pool of threads. Processes are ``processes.py`` and ``process.py``
here and ``child.py`` there; ``frames.py`` is what the two say to each other, ``output.py`` what becomes of the text that the process prints.
"""

from taskcore.worker.runners.runners import Executors, require_processes

__all__ = ["Executors", "require_processes"]
