"""Where plain functions run: in a thread, or by a runner of a feature room, such as in a process of its own.

``runners.py`` has the seam and chooses, ``threads.py`` is the pool of threads, ``values.py`` says when a function has
returned.
"""

from taskcore.worker.runners.runners import Runner, Runners
from taskcore.worker.runners.values import FINISHED, finish

__all__ = ["FINISHED", "Runner", "Runners", "finish"]
