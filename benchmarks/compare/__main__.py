"""Compare brokers by guarantee, and taskcore with its peers, in one run on this machine.

    python -m benchmarks.compare                    everything, about a quarter of an hour
    python -m benchmarks.compare --quick            small numbers, no peers unless named: under two minutes
    python -m benchmarks.compare --docs             and write docs/benchmarks.md from it
    python -m benchmarks.compare --report DIR       write the report of an earlier run again

Each broker gets a private server, started and removed by the run; each peer an environment of its own below
.bench/peers, made at the first run. The result is a folder: raw.jsonl, report.html, REPORT.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import anyio
import msgspec

from benchmarks.compare.peers import install
from benchmarks.compare.report import write_report
from benchmarks.compare.run import Run
from benchmarks.compare.session import Plan, run
from taskcore.testing.bench import (
    BROKERS,
    FULL,
    QUICK,
    SCENARIOS,
    Contestant,
    Record,
    chosen,
    describe_machine,
    encode_line,
    printed,
    quiet_logs,
    table_of,
)
from taskcore.testing.bench.machine import loop_name

ROOT = Path(__file__).parents[2]
ALL_BROKERS = (*BROKERS, "postgresql")


def main() -> int:
    """Measure, write the report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small numbers, one round")
    parser.add_argument("--brokers", default=",".join(ALL_BROKERS), help="default: %(default)s")
    parser.add_argument("--only", default="", metavar="NAME,…", help="scenarios: " + ", ".join(SCENARIOS))
    parser.add_argument("--peers", metavar="NAME,…", help="all, none, or names; default: all, with --quick none")
    parser.add_argument("--rounds", type=int, help="rounds of each rate")
    parser.add_argument("--seconds", type=float, help="length of one round")
    parser.add_argument("--backlog", type=int, default=0, metavar="N", help="also behind N queued jobs, e. g. 1000000")
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
    folder.mkdir(parents=True, exist_ok=True)
    quiet_logs()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers and workers are ended, as after Ctrl-C
    try:
        records = anyio.run(
            measure, options, folder, backend_options={"use_uvloop": True} if find_spec("uvloop") else {}
        )
    except LookupError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"\nstopped; what was measured is in {folder / 'raw.jsonl'}", file=sys.stderr)
        return 130
    print(table_of([record for record in records if getattr(record, "who", "taskcore") == "taskcore"]))
    write_report(Run(records), folder, docs)
    print(f"\nreport: {folder / 'report.html'}")
    return 0


async def measure(options: argparse.Namespace, folder: Path) -> list[Record]:
    """The run itself; each record is in the file as soon as it is there."""
    size = QUICK if options.quick else FULL
    size = msgspec.structs.replace(
        size, rounds=options.rounds or size.rounds, seconds=options.seconds or size.seconds, backlog=options.backlog
    )
    names = [name.strip() for name in options.only.split(",") if name.strip()]
    scenarios = chosen(names, backlog=options.backlog)
    brokers = [name.strip() for name in options.brokers.split(",")]
    if unknown := set(brokers) - set(ALL_BROKERS):
        raise LookupError(f"no broker is called {', '.join(unknown)}; there are: {', '.join(ALL_BROKERS)}")
    peers = (options.peers or ("none" if options.quick else "all")).split(",")
    began = time.monotonic()
    machine = await describe_machine(shlex.join(["python", "-m", "benchmarks.compare", *sys.argv[1:]]))
    records: list[Record] = []
    with (folder / "raw.jsonl").open("wb") as file:

        def tell(record: Record) -> None:
            records.append(record)
            file.write(encode_line(record) + b"\n")
            file.flush()

        tell(machine)
        tell(
            Contestant(
                who="taskcore", version=machine.taskcore, settings=OURS.format(loop=loop_name(), lease=size.lease)
            )
        )
        for name in brokers:
            if name in BROKERS:
                tell(Contestant(who=f"server, {name}", version="", settings=BROKERS[name].settings))
        progress = printed()
        installed = await install(peers, progress, tell)
        versions = await run(Plan(brokers, scenarios, size, installed), progress, tell)
        tell(
            msgspec.structs.replace(
                machine, versions=machine.versions | versions, seconds=round(time.monotonic() - began, 1)
            )
        )
    return records


def _know_servers() -> None:
    """Servers that ``scripts/servers`` has fetched are found, the newest first."""
    fetched = ROOT / ".servers"
    folders = [fetched / "bin", *sorted(fetched.glob("nats-[0-9]*"), reverse=True)]
    given = os.environ.get("TASKCORE_SERVERS", "").split(os.pathsep)
    os.environ["TASKCORE_SERVERS"] = os.pathsep.join(filter(None, [*given, *map(str, folders)]))


OURS = (
    "Its defaults: 100 jobs at once, lease 60 s ({lease:g} s where workers are killed), acknowledged after the run, "
    "every task async. Event loop: {loop}. at least once: acknowledged after the run."
)

if __name__ == "__main__":
    sys.exit(main())
