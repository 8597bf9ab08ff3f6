"""Process tasks: functions with ``runs_in="process"`` run in a process of their own, which is killed on cancellation.

A worker loads this room by name when it has such a task, and the core knows only the seam
:class:`taskcore.worker.runners.Runner`. ``runner.py`` stands behind it, ``pool.py`` has the processes. ``process.py``
is one process as its worker sees it, ``child.py`` the program that runs there. ``frames.py`` is what the two exchange,
``outcomes.py`` what an answer means, ``output.py`` what becomes of the text that the process prints.
"""
