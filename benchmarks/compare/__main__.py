"""Compare brokers by guarantee, and taskcore with its peers, in one run on this machine.

    python -m benchmarks.compare                    everything, in three rounds: about an hour
    python -m benchmarks.compare --budget 45        as many rounds as fit into so many minutes
    python -m benchmarks.compare --quick            small numbers, no peers unless named: about two minutes
    python -m benchmarks.compare --docs             and write docs/benchmarks.md from it
    python -m benchmarks.compare --report DIR       write the report of an earlier run again

Each broker gets a private server, started and removed by the run; each peer an environment of its own below
.bench/peers, made at the first run. The result is a folder: raw.jsonl, report.html, REPORT.md.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import anyio
import msgspec

from benchmarks.compare.limited import Limited
from benchmarks.compare.peers import install, wanted
from benchmarks.compare.report import write_report
from benchmarks.compare.run import US, Run, public
from benchmarks.compare.session import Plan, Session
from taskcore.bench import (
    BROKERS,
    FULL,
    QUICK,
    SCENARIOS,
    BenchRecord,
    Contestant,
    chosen,
    describe_machine,
    encode_line,
    printed,
    quiet_logs,
    table_of,
)
from taskcore.bench.machine import loop_name

ROOT = Path(__file__).parents[2]
ALL_BROKERS = (*BROKERS, "postgresql")
BACKLOG = 1_000_000
CLOSING = 15.0  #: seconds of the budget that are kept for stopping the last server and writing the report


def main() -> int:
    """Measure, write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small numbers, one round")
    parser.add_argument("--brokers", default=",".join(ALL_BROKERS), help="default: %(default)s")
    parser.add_argument("--only", default="", metavar="NAME,…", help="scenarios: " + ", ".join(SCENARIOS))
    parser.add_argument("--peers", metavar="NAME,…", help="all, none, or names; default: all, with --quick none")
    parser.add_argument(
        "--rounds", type=int, help="rounds of the races; two of three for the rest; default: 3, quick: 1"
    )
    parser.add_argument("--budget", type=float, metavar="MINUTES", help="end in time; the report says what is left out")
    parser.add_argument("--seconds", type=float, help="how long a rate is measured in one turn")
    parser.add_argument(
        "--backlog",
        type=int,
        metavar="N",
        help="jobs of the long queue; default: 1000000, quick: 0, which leaves it out",
    )
    parser.add_argument("--out", type=Path, help="the folder for the result; default: benchmarks/results/<now>")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md, too")
    parser.add_argument("--report", type=Path, metavar="DIR", help="do not measure: read DIR/raw.jsonl again")
    options = parser.parse_args()
    _know_servers()
    docs = ROOT / "docs" / "benchmarks.md" if options.docs else None
    if options.report is not None:
        write_report(Run.read(options.report / "raw.jsonl"), options.report, docs)
        return 0
    folder = options.out or ROOT / "benchmarks" / "results" / datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    quiet_logs()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers and workers are ended, as after Ctrl-C
    try:
        anyio.run(measure, options, folder, docs)  # on asyncio, as the senders of all others
    except LookupError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"\nstopped; what was measured is in {folder / 'raw.jsonl'}", file=sys.stderr)
        return 130
    return 0


async def measure(options: argparse.Namespace, folder: Path, docs: Path | None) -> None:
    """Make the run; each record is in the file as soon as it is there."""
    began = time.monotonic()
    size = QUICK if options.quick else FULL
    rounds = options.rounds or size.rounds
    backlog = options.backlog if options.backlog is not None else (0 if options.quick else BACKLOG)
    size = msgspec.structs.replace(size, rounds=1, seconds=options.seconds or size.seconds, backlog=backlog)
    scenarios = chosen([name.strip() for name in options.only.split(",") if name.strip()], backlog=backlog)
    brokers = [name.strip() for name in options.brokers.split(",")]
    if unknown := set(brokers) - set(ALL_BROKERS):
        raise LookupError(f"no broker is called {', '.join(unknown)}; there are: {', '.join(ALL_BROKERS)}")
    peers = wanted(options.peers or ("none" if options.quick else "all"))
    machine = await describe_machine(public(shlex.join(["python", "-m", "benchmarks.compare", *sys.argv[1:]])))
    records: list[BenchRecord] = []
    with _raw(folder) as file:

        def on_record(record: BenchRecord) -> None:
            records.append(record)
            file.write(encode_line(record) + b"\n")
            file.flush()

        on_record(machine)
        settings = OURS.format(loop=loop_name(), lease=size.lease)
        on_record(Contestant(who=US, version=machine.taskcore, settings=settings))
        progress = printed()
        installed = await install(peers, progress, on_record)
        until = began + options.budget * 60 - CLOSING if options.budget else math.inf
        plan = Plan(brokers, scenarios, size, rounds, installed, until)
        async with anyio.create_task_group() as group:
            limited = Limited(group)
            session = Session(plan, limited, progress, on_record)
            await session.run()
            seconds = round(time.monotonic() - began, 1)
            on_record(msgspec.structs.replace(machine, versions=machine.versions | session.versions, seconds=seconds))
            finish(records, folder, docs)
            if limited.stuck:  # this group would wait for it for ever
                sys.stdout.flush()
                os._exit(1)


def _raw(folder: Path) -> BinaryIO:
    """Open the file of the records; a run that cannot begin has none."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "raw.jsonl").open("wb")


def finish(records: list[BenchRecord], folder: Path, docs: Path | None) -> None:
    """Print the table, and write the report into the folder."""
    run = Run(records)
    ours = [record for record in (*run.figures, *run.skipped) if record.who in (US, "all")]
    print(table_of([run.machine, *ours]))
    write_report(run, folder, docs)
    print(f"\nreport: {folder / 'report.html'}")


def _know_servers() -> None:
    """Make the servers that ``scripts/servers`` has fetched known, the newest first."""
    fetched = ROOT / ".servers"
    folders = [fetched / "bin", *sorted(fetched.glob("nats-[0-9]*"), reverse=True)]
    first, gap, last = os.environ.get("TASKCORE_SERVERS", "").partition(2 * os.pathsep)
    os.environ["TASKCORE_SERVERS"] = os.pathsep.join(filter(None, [first, *map(str, folders)])) + gap + last


OURS = (
    "Its defaults: 100 jobs at once, lease 60 s ({lease:g} s where workers are killed), acknowledged after the run, "
    "every task async. RabbitMQ: quorum queues, where the queues of the others are classic ones, as is their default. "
    "Event loop of its workers: {loop}; of its sender, as of all senders: asyncio. "
    "at least once: acknowledged after the run."
)

if __name__ == "__main__":
    sys.exit(main())
