"""Where plain functions run: in a thread, or by a runner of a feature room, such as in a process of its own.

``runners.py`` has the seam and chooses, ``threads.py`` is the pool of threads.
"""

from taskcore.worker.runners.runners import Runner, Runners

__all__ = ["Runner", "Runners"]
