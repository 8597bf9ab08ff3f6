"""python -m benchmarks.workflow_peers [--small]: taskcore's workflows, Celery's chains and chords, BullMQ's flows.

One after the other, each on a Redis of its own, with one worker process:

hop     from the return of a step to the start of the next one, 50 chains a second; beside it a plain job with result
steps   steps a second of 2,000 chains of five steps that wait for the worker
map     10,000 children and what collects their results, from the submission to the result
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks import workflows
from taskcore.faults import RedisServer

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from environment import prepare, read

HERE = Path(__file__).parent
SIZES = (workflows.RATE, workflows.SECONDS, workflows.CHAINS, workflows.PLACES, workflows.CHILDREN)
SMALL = (20, 2, 50, 5, 300)  #: to see that it runs


def peer(name: str, url: str, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Run a peer; return its figures."""
    home = prepare(read(name))
    environment = os.environ | {"WORKFLOWS_URL": url, "WORKFLOWS_SIZES": " ".join(map(str, sizes))}
    if name == "bullmq":
        shutil.copy(HERE / "bullmq.mjs", home.work / "workflows.mjs")
        command, folder = ["node", str(home.work / "workflows.mjs")], home.work
    else:
        command, folder = [str(home.python), "celery_.py"], HERE
    printed = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, timeout=1_800)
    return {"version": home.version, **json.loads(printed.stdout.splitlines()[-1])}


def show(name: str, found: dict[str, Any]) -> None:
    """Print the figures of a peer, as those of taskcore are printed."""
    hops, jobs = sorted(found["hops"]), sorted(found["jobs"])
    p50, p99 = statistics.median(hops) * 1000, hops[int(len(hops) * 0.99)] * 1000
    plain = statistics.median(jobs) * 1000
    print(f"{name} {found['version']}")
    print(f"hop       a hop: p50 {p50:.2f} ms, p99 {p99:.2f} ms; a plain job, to its result: p50 {plain:.2f} ms")
    print(f"steps     {found['steps']:,.0f} steps/s of chains")
    print(f"map       {found['map']:.2f} s", flush=True)


async def main(arguments: list[str]) -> None:
    """Run all."""
    sizes = SMALL if "--small" in arguments else SIZES
    workflows.RATE, workflows.SECONDS, workflows.CHAINS, workflows.PLACES, workflows.CHILDREN = sizes
    async with RedisServer() as server:
        print("taskcore")
        for part in (workflows.hop, workflows.steps, workflows.wide):
            await part(server.url, None)
    for name, title in (("bullmq", "BullMQ"), ("celery", "Celery")):
        async with RedisServer() as server:
            show(title, await anyio.to_thread.run_sync(peer, name, server.url, sizes))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1:])
