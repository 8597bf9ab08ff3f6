"""Plumbing that adapters and the core share. It imports nothing of taskcore but its errors.

batching       many single calls become few batches
contained_tasks  tasks whose ``SystemExit`` does not end the event loop
detached       work that outlives a cancelled caller
diagnostics    what ``taskcore doctor`` prints
failpoints     the moments in which a crash is tested
groups         errors that leave a task group
logging        loggers that cannot end a worker
tasks          background tasks: kept while they run, logged when they die
timeouts       one timer for many waits
units          times and sizes as text
urls           options and secrets in URLs
"""
