"""python -m benchmarks.schedule_peers [--minutes N] [--schedules N] [--only NAME,…] [--seed S] [--json] [--docs].

All contenders run side by side, each on a Redis of its own, with the same schedules of each minute. Around each full
minute, half a second before until half a second after it, one process that schedules is killed with SIGKILL and started
again at once; once more at a random moment in between. A tick is lost if its job does not start within its minute.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import anyio

from benchmarks.schedule_peers.contenders import CONTENDERS, Running, make
from benchmarks.schedule_peers.verdict import MINUTE, Verdict, judge
from taskcore.faults import RedisServer

__all__ = ["main"]

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "schedules.md"
BEGIN, END = "<!-- beside others -->", "<!-- end of beside others -->"

READY = 12.0  #: seconds that processes have to start before the first minute that counts
AROUND = 0.5  #: seconds before and after a full minute within which a process is killed
LATEST = 40.0  #: seconds after the last full minute within which its ticks may start


def main(arguments: list[str] | None = None) -> int:
    """Run, print a table, return the exit code."""
    parser = argparse.ArgumentParser("python -m benchmarks.schedule_peers", description=__doc__)
    parser.add_argument("--minutes", type=int, default=10, help="full minutes that count (default: 10)")
    parser.add_argument("--schedules", type=int, default=20, help="schedules of each contender (default: 20)")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="some of: " + ", ".join(CONTENDERS))
    parser.add_argument("--seed", type=int, default=7, help="of the moments at which processes are killed")
    parser.add_argument("--json", action="store_true", help="an object for each contender")
    parser.add_argument("--docs", action="store_true", help=f"write the table into {PAGE.name}, too")
    told = parser.parse_args(arguments)
    names = [name.strip() for name in told.only.split(",")]
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(CONTENDERS)}")
    if told.minutes < 1 or told.schedules < 1:
        parser.error("--minutes and --schedules are at least 1")
    anyio.run(run, names, told)
    return 0


async def run(names: list[str], told: argparse.Namespace) -> None:
    """Start everything, kill, and print what came of it."""
    async with AsyncExitStack() as exits:
        running = []
        for number, name in enumerate(names):
            folder = Path(exits.enter_context(tempfile.TemporaryDirectory(prefix=f"schedules-{number}-")))
            contender = make(name, folder)
            server = await exits.enter_async_context(RedisServer())
            running.append(Running(contender, server.url, folder, told.schedules))
            exits.callback(running[-1].end)
        minutes = await play(running, told.minutes, random.Random(told.seed))
        schedules = [f"s{number}" for number in range(told.schedules)]
        judged = [(one, judge(one.lines(), schedules, minutes)) for one in running]
        for one, verdict in judged:
            show(one, verdict, as_json=told.json)
        if told.docs:
            before, _, rest = PAGE.read_text().partition(BEGIN)
            PAGE.write_text(f"{before}{BEGIN}\n{table(judged, told.minutes)}\n{END}{rest.partition(END)[2]}")


async def play(running: list[Running], number: int, dice: random.Random) -> range:
    """Start all, and kill one of each at the same moments; return the minutes that count."""
    for one in running:
        one.start()
    first = int(time.time() + READY) // MINUTE + 1
    for minute in range(first, first + number):
        for moment in (minute * MINUTE + dice.uniform(-AROUND, AROUND), minute * MINUTE + dice.uniform(15.0, 40.0)):
            await anyio.sleep(max(moment - time.time(), 0.0))
            for one in running:
                one.kill_one()
    await anyio.sleep(max((first + number - 1) * MINUTE + LATEST - time.time(), 0.0))
    return range(first, first + number)


def show(one: Running, verdict: Verdict, *, as_json: bool) -> None:
    """Write a line of the table."""
    contender = one.contender
    if as_json:
        print(
            json.dumps({"who": contender.name, "version": contender.version, "kills": one.kills, **verdict._asdict()})
        )
        return
    name = f"{contender.name} {contender.version}"
    late = f"p50 {verdict.percentile(0.5):.2f} s, p99 {verdict.percentile(0.99):.2f} s"
    counted = f"{verdict.due} due, {verdict.lost} lost, {verdict.doubled} doubled"
    print(f"{name:34} {counted:36} late {late}; {one.kills} kills: {contender.settings}", flush=True)


def table(judged: list[tuple[Running, Verdict]], minutes: int) -> str:
    """Write the conditions and a table for the guide."""
    load = os.getloadavg()[0]
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}, {minutes} minutes, {os.cpu_count()} cores, load {load:.1f} at the end.",
        "",
        "| | processes | killed | ticks due | lost | doubled | late: p50 | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one, verdict in judged:
        who = one.contender
        late = [f"{verdict.percentile(share):.2f} s" for share in (0.5, 0.99)]
        cells = [
            f"{who.name} {who.version}",
            who.settings,
            f"{one.kills} ×",
            verdict.due,
            verdict.lost,
            verdict.doubled,
        ]
        lines.append("| " + " | ".join(map(str, [*cells, *late])) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
