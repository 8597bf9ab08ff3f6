"""How fast is this broker, and what does it lose? Measured through taskcore, on a server of our own or on yours.

    figures.py     what comes out          brokers.py    servers that are started for it
    environment.py      where it is measured    scenarios.py  what is measured: the list
    workers.py        the workers             tally.py, ledger.py   the rulers: counts in memory, signatures in a file
    running.py     one run                 table.py      as text

The repository's ``benchmarks/`` adds other libraries, the limits of the client libraries, and a report.
"""

from taskcore.bench.brokers import BROKERS, environment_on, named_environment, private_environment, private_server
from taskcore.bench.environment import FULL, QUICK, BenchEnvironment, NotHere, Size
from taskcore.bench.figures import BenchRecord, Contestant, Figure, MachineInfo, Skipped, decode_lines, encode_line
from taskcore.bench.machine import describe_machine
from taskcore.bench.progress import printed, quiet_logs
from taskcore.bench.running import OnRecord, ProgressDisplay, measure, measure_on, measure_one, plain, show
from taskcore.bench.scenarios import SCENARIOS, BenchScenario, chosen, limit_of
from taskcore.bench.table import table_of

__all__ = [
    "BROKERS",
    "FULL",
    "QUICK",
    "SCENARIOS",
    "BenchEnvironment",
    "BenchRecord",
    "BenchScenario",
    "Contestant",
    "Figure",
    "MachineInfo",
    "NotHere",
    "OnRecord",
    "ProgressDisplay",
    "Size",
    "Skipped",
    "chosen",
    "decode_lines",
    "describe_machine",
    "encode_line",
    "environment_on",
    "limit_of",
    "measure",
    "measure_on",
    "measure_one",
    "named_environment",
    "plain",
    "printed",
    "private_environment",
    "private_server",
    "quiet_logs",
    "show",
    "table_of",
]
