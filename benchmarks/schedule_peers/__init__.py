"""What becomes of cron schedules while the processes that schedule are killed: Celery beat, BullMQ, taskcore.

``celery_.py``, ``bullmq.mjs`` and ``taskcore_.py`` are the three programs, each with the same schedules of each minute.
``contenders.py`` starts and kills them, ``verdict.py`` counts, ``__main__.py`` is the command line.
"""
