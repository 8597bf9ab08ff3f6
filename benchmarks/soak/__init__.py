"""Soak: real workers and senders on a real broker, random faults, and a judge that reads what they wrote down.

python -m benchmarks.soak redis --minutes 10
python -m benchmarks.soak rabbitmq --store sqlite --minutes 10 --json

kinds      what jobs there are, and how each of them has to end
tasks      their functions; workers and senders import them
ledger     append-only files outside of the library: what was sent, confirmed, started, finished
sender     the programs: one job at a time, and in batches
worker     the program that works
plan       which faults, when: a pure function of the seed
stage      servers, proxies and processes, and the faults that are done to them
remains    what broker and store hold at the end
judge      the rules: what is wrong, from the ledgers and the remains alone
report     the verdict, as text or JSON
"""
