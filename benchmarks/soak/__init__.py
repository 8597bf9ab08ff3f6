"""Soak: real workers and senders on a real broker, random faults, and a judge that reads what they wrote down.

python -m benchmarks.soak redis --minutes 10
python -m benchmarks.soak rabbitmq --store sqlite --minutes 10 --json

kinds      what jobs there are, and how each of them has to end
tasks      their functions; workers and senders import them
app        the app around them: lifespan, schedule, hook
ledger     append-only files outside of the library: what was sent, confirmed, started, finished
sender     the programs: one job at a time, and in batches
worker     the plain program that works
program    what ``taskcore worker`` is given
members    the processes: each has lives, one after the other
fleet      a supervisor with its processes
plan       which faults, when: a pure function of the seed
harness    servers, proxies and processes, and the faults that are done to them
watch      sizes and the roster while the run goes on
remains    what broker and store hold at the end
judge      the rules: what is wrong, from the ledgers and the remains alone
promises   … those of a worker for production
report     the verdict, as text or JSON
documented all brokers side by side, and the table of the guide
"""
