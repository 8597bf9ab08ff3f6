"""How much work one job is: bytecodes of ours and calls of any code, counted and not timed, so no noise can matter.

    python tests/support/counting.py            what this checkout does, beside what is written down for this Python
    python tests/support/counting.py --write    write it down

Counted is the difference between many jobs and fewer, divided by their number: starting and stopping cancel out.
``test_speed_guard.py`` compares.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

import anyio

import taskcore
from taskcore import App

OURS = str(Path(taskcore.__file__).parent)
WRITTEN = Path(__file__).with_name("counts.json")
FEW, MANY = 500, 2_500
PAYLOAD = "x" * 200


class Work(NamedTuple):
    """What one job takes: bytecodes in taskcore's own files, calls of functions of any kind."""

    bytecodes: float
    calls: float


class Counter:
    """Counts while it is switched on."""

    def __init__(self) -> None:
        self.bytecodes = self.calls = 0

    def __enter__(self) -> Self:
        gc.disable()
        sys.settrace(self._enter)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        sys.settrace(None)
        gc.enable()

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._bytecode

    def _bytecode(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            self.bytecodes += 1
        return self._bytecode

    def _profile(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


# ── the hot paths ────────────────────────────────────────────────────────────────────────────────


def make_app(*, results: bool) -> App:
    """Make an app with the task that does nothing."""
    app = App("memory://?limit=10000000", store=None if results else "none")

    @app.task(name="noop", keep_result=3600.0 if results else None)
    async def noop(data: str) -> None:
        pass

    return app


async def enqueue_many(jobs: int) -> Counter:
    """Pack and send in bulk."""
    app = make_app(results=False)
    async with app:
        task = app.tasks["noop"]
        with Counter() as counter:
            await app.enqueue_many([task.call(PAYLOAD) for _ in range(jobs)])
    return counter


async def enqueue(jobs: int) -> Counter:
    """Enqueue one job after another."""
    app = make_app(results=False)
    async with app:
        task = app.tasks["noop"]
        with Counter() as counter:
            for _ in range(jobs):
                await task.enqueue(PAYLOAD)
    return counter


async def drain(jobs: int) -> Counter:
    """Run a worker that finds a full queue."""
    return await _drain(jobs, results=False)


async def drain_with_results(jobs: int) -> Counter:
    """Run a worker that finds a full queue, and store an outcome for each job."""
    return await _drain(jobs, results=True)


async def _drain(jobs: int, *, results: bool) -> Counter:
    app = make_app(results=results)
    async with app:
        await app.enqueue_many([app.tasks["noop"].call(PAYLOAD) for _ in range(jobs)])
        with Counter() as counter:
            async with app.running():
                while app.counters.get("job.succeeded", 0) < jobs:  # noqa: ASYNC110 - nothing tells it
                    await anyio.sleep(0.01)
    return counter


PATHS: dict[str, Callable[[int], Awaitable[Counter]]] = {
    "enqueue_many": enqueue_many,
    "enqueue": enqueue,
    "drain": drain,
    "drain with results": drain_with_results,
}


def count(path: str, rounds: int = 3) -> Work:
    """Count what one job takes on this path; the median of a few rounds, because batches form as they like."""
    works = []
    for _ in range(rounds):
        few, many = (anyio.run(PATHS[path], jobs) for jobs in (FEW, MANY))
        works.append(Work((many.bytecodes - few.bytecodes) / (MANY - FEW), (many.calls - few.calls) / (MANY - FEW)))
    return Work(statistics.median(work.bytecodes for work in works), statistics.median(work.calls for work in works))


def version() -> str:
    """Name the Python whose bytecodes these are."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def written() -> dict[str, dict[str, Work]]:
    """Read the recorded work, by Python and by path."""
    content = json.loads(WRITTEN.read_text()) if WRITTEN.exists() else {}
    return {python: {path: Work(*work) for path, work in paths.items()} for python, paths in content.items()}


def main() -> None:
    """Count, show, write."""
    known = written()
    old = known.get(version(), {})
    new = {path: count(path) for path in PATHS}
    for path, work in new.items():
        before = old.get(path)
        beside = f"   written down: {before.bytecodes:8.1f} {before.calls:6.1f}" if before else ""
        print(f"{path:20} {work.bytecodes:8.1f} bytecodes {work.calls:6.1f} calls{beside}")  # noqa: T201
    if "--write" in sys.argv:
        known[version()] = new
        rows = {
            python: {path: [round(number, 1) for number in work] for path, work in paths.items()}
            for python, paths in sorted(known.items())
        }
        WRITTEN.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
