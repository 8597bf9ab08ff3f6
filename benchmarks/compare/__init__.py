"""One command compares brokers by guarantee, and taskcore with its peers.

    python -m benchmarks.compare

__main__.py   the command                    raw.py, raw_*.py   what the client libraries reach: the ceiling
session.py    one run, broker by broker      peers.py           other libraries, each in an environment of its own
turns.py      which scenario is next, until when  contenders.py  what a turn is for raw client, taskcore, peers
limited.py    an outer limit for all of them     sweeping.py    what peers leave behind
report/       HTML, Markdown                 run.py             a finished run, from its file of JSON lines
"""
