"""Workflows beside Celery's canvas and BullMQ's flows.

``celery_.py`` and ``bullmq.mjs`` are programs that work, send, and print their figures; ``__main__.py`` runs all.
"""
