"""A peer measured on one broker, from outside: this process starts its programs and reads what they wrote.

enqueue       one awaited, bulk                          drain      no-op jobs of 200 bytes, one worker process
latency       open loop at a low rate                    results    round trips
worker killed SIGKILL in the middle; the same command is started again; lost and duplicated from ids
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from environment import Home, PeerFailed
from ruler import HERE, Peer, ledger_module

PILOT_JOBS = 200  #: jobs that find the number for a measurement
MAX_JOBS = 60_000  #: jobs of one measurement
COUNT_TIMEOUT = 60.0  #: seconds until the workers must have ended the jobs
BACK_WITHIN = 15.0  #: seconds without any job's end, after which the jobs of a worker that was killed are missing
WARM_UP_JOBS = 50  #: jobs that are not counted
PERCENTILES = (50, 90, 95, 99, 99.9)
MIN_VALUES_FOR_P999 = 1_000  #: values: with fewer, a p99.9 is only the largest of them
PARTS = ("enqueue", "drain", "latency", "results", "worker killed")

_queues = itertools.count()


class Effort(NamedTuple):
    """How much is measured; seconds.

    :param arrivals: rates of the open loop, and for how long each.
    """

    rounds: int = 3
    seconds: float = 0.6
    arrivals: Sequence[tuple[float, float]] = ((50.0, 5.0),)
    lease: float = 5.0


class Measured:
    """One peer on one broker.

    :param results_url: a Redis in which results are kept.
    :param broker_cpu: seconds of CPU that the broker has used; None if it is unknown.
    """

    def __init__(
        self,
        peer: Peer,
        home: Home,
        broker: str,
        url: str,
        *,
        results_url: str = "",
        effort: Effort | None = None,
        broker_cpu: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.peer, self.home, self.broker, self.url = peer, home, broker, url
        self.results_url = results_url
        self.effort = effort or Effort()
        self.broker_cpu = broker_cpu
        self.queues: list[str] = []  #: those that it has used
        self._end = math.inf
        self._jobs = 0

    def part(self, name: str, *, within: float = math.inf) -> list[dict[str, Any]]:
        """Return the figures of one part.

        :param within: seconds that it may take; then its processes are ended.
        :raises PeerFailed: it did not do what it was asked to.
        """
        self._end = time.monotonic() + within
        with tempfile.TemporaryDirectory(prefix="taskcore-peer-") as folder:
            return getattr(self, f"_{name.replace(' ', '_')}")(Path(folder))

    # ── the parts ──

    def _enqueue(self, folder: Path) -> list[dict[str, Any]]:
        parameters = {"seconds": self.effort.seconds / 2, "rounds": self.effort.rounds}
        answer = self._role("send", parameters, self._environment(folder))
        return [
            self._figure("enqueue", "one awaited", "jobs/s", answer["one"]),
            self._figure("enqueue", "bulk", "jobs/s", answer["many"]),
        ]

    def _drain(self, folder: Path) -> list[dict[str, Any]]:
        if not self._jobs:  # how many it takes for a round of the wanted length
            rate = self._drained(folder, PILOT_JOBS)["rate"]
            self._jobs = (
                max(min(int(rate * self.effort.seconds * 1.5), MAX_JOBS) // 100, 20 if rate > 1_000 else 2) * 100
            )
        runs = [self._drained(folder, self._jobs) for _ in range(self.effort.rounds)]
        facts = {key: sum(run[key] for run in runs) for key in ("jobs", "lost", "duplicated")}
        figures = [
            self._figure("drain", "1 process", "jobs/s", [run["rate"] for run in runs], **facts),
            self._figure("cost", "worker CPU", "µs/job", [run["cpu"] for run in runs], "less"),
            self._figure("cost", "worker memory, at most", "MB", [run["rss"] for run in runs], "less"),
        ]
        broker = [run["broker"] for run in runs if run["broker"] is not None]
        return [*figures, self._figure("cost", "broker CPU", "µs/job", broker, "less")] if broker else figures

    def _drained(self, folder: Path, jobs: int) -> dict[str, Any]:
        environment = self._environment(folder)
        self._role("fill", {"jobs": jobs}, environment)
        before = self.broker_cpu()
        with self._worker(environment) as worker:
            worker.count_to(jobs, self._left(COUNT_TIMEOUT))
            after = self.broker_cpu()
            report = worker.report()
        counts = Counter(report["numbers"])
        return {
            "jobs": jobs,
            "rate": jobs / max(report["last"] - report["first"], 1e-9),
            "lost": jobs - len(counts),
            "duplicated": sum(1 for count in counts.values() if count > 1),
            "cpu": report["cpu"] / jobs * 1e6,
            "rss": report["rss"] / 1e6,
            "broker": None if before is None or after is None else (after - before) / jobs * 1e6,
        }

    def _latency(self, folder: Path) -> list[dict[str, Any]]:
        environment = self._environment(folder, BENCH_MODE="timed")
        self._role("fill", {"jobs": 1}, environment)  # what has to be declared, is
        phases, sent = [], 1
        with self._worker(environment) as worker:
            worker.count_to(1, self._left(COUNT_TIMEOUT))
            for rate, seconds in self.effort.arrivals:
                jobs = int(rate * seconds) + WARM_UP_JOBS
                self._role("arrive", {"rate": rate, "jobs": jobs}, environment)
                phases.append((rate, sent + WARM_UP_JOBS, sent + jobs))
                sent += jobs
                worker.count_to(sent, self._left(COUNT_TIMEOUT))
            late = worker.report()["latencies"]
        return [figure for rate, first, last in phases for figure in self._curve(rate, sorted(late[first:last]))]

    def _curve(self, rate: float, late: list[float]) -> list[dict[str, Any]]:
        curve = [round(_percentile(late, one) * 1e3, 4) for one in (*range(1, 100), 99.5, 99.9)]
        facts = {"rate": rate, "measured": len(late)}
        return [
            self._figure(
                "latency",
                f"{rate:g}/s, p{percent}",
                "ms",
                [_percentile(late, percent) * 1e3],
                "less",
                **(facts | ({"curve": curve} if percent == 50 else {})),
            )
            for percent in PERCENTILES
            if percent < 99.9 or len(late) >= MIN_VALUES_FOR_P999
        ]

    def _results(self, folder: Path) -> list[dict[str, Any]]:
        if not self.results_url:
            return []
        environment = self._environment(folder, BENCH_RESULTS=self.results_url)
        self._role("fill", {"jobs": 1}, environment)
        with self._worker(environment) as worker:
            worker.count_to(1, self._left(COUNT_TIMEOUT))
            answer = self._role("trips", {"seconds": self.effort.seconds}, environment)
        if answer is None:
            return []
        single = sorted(answer["ms"])
        return [
            self._figure("results", "round trip, p50", "ms", [statistics.median(single)], "less"),
            self._figure("results", "round trip, p99", "ms", [single[int(len(single) * 0.99)]], "less"),
            self._figure("results", "round trips, 100 at once", "jobs/s", [answer["rate"]]),
        ]

    def _worker_killed(self, folder: Path) -> list[dict[str, Any]]:
        jobs = max(self.peer.slots * 20, 40)
        ledger = ledger_module.JobLedger(folder / "ledger")
        environment = self._environment(folder, BENCH_LEDGER=str(ledger.path), BENCH_LEASE=f"{self.effort.lease:g}")
        self._role("fill", {"jobs": jobs}, environment)
        with self._worker(environment) as victim:
            if not _until(lambda: ledger.ended() >= jobs // 3, self._left(COUNT_TIMEOUT)):
                raise PeerFailed(f"its worker had done {ledger.ended()} of {jobs} jobs when it was to be killed")
            killed = time.monotonic()
            victim.kill()
        held = _unfinished(ledger.read())
        with self._worker(environment):
            self._come_back(ledger, jobs)
        entries = ledger.read()
        ledger.close()
        account = ledger_module.reconcile(range(jobs), entries)._asdict()
        seconds = max(one.when for one in entries if one.what == "end") - killed if not account["lost"] else BACK_WITHIN
        facts = account | {"in_hand": held, "lease": self.effort.lease, "waited": BACK_WITHIN}
        return [self._figure("worker killed", "all jobs have ended after", "s", [seconds], "less", **facts)]

    def _come_back(self, ledger: Any, jobs: int) -> None:
        """Wait until all have ended; a slow worker has time as long as its jobs end."""
        ended = ledger.ended()
        while ended < jobs:
            before = ended
            if not _until(lambda: ledger.ended() > before, self._left(BACK_WITHIN)):  # noqa: B023 - called at once
                return
            ended = ledger.ended()

    # ── processes ──

    def _left(self, seconds: float) -> float:
        """Return so many seconds, or as many as this part has left.

        :raises PeerFailed: it has none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise PeerFailed("its time was over")
        return min(seconds, left)

    def _environment(self, folder: Path, **more: str) -> dict[str, str]:
        queue = f"bench{os.getpid()}x{next(_queues)}"
        self.queues.append(queue)
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("BENCH_", "PYTHONPATH"))}
        path = f"{self.home.python.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        return keep | more | {
            "PATH": path, "PYTHONPATH": str(HERE), "PYTHONWARNINGS": "ignore", "BENCH_URL": self.url,
            "BENCH_BROKER": self.broker, "BENCH_QUEUE": queue, "BENCH_REPORT": str(folder / f"{queue}.json"),
        }  # fmt: skip

    def _role(self, name: str, parameters: dict[str, Any], environment: dict[str, str]) -> Any:
        program = ["-c", f"import ruler; ruler.main('{self.peer.package}_')"]
        if self.peer.tool == "npm":
            program = [str(self.home.work / f"{self.peer.package}.mjs")]
        seconds = self._left(COUNT_TIMEOUT * 2)
        try:
            ran = subprocess.run(
                [str(self.home.python), *program, name, json.dumps(parameters)],
                cwd=HERE, env=environment, capture_output=True, text=True, timeout=seconds, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise PeerFailed(f"{name} was not done after {seconds:.0f} s") from error
        for line in ran.stdout.splitlines():
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))
        raise PeerFailed(f"{name}: {_telling(ran.stderr or ran.stdout)}")

    @contextmanager
    def _worker(self, environment: dict[str, str]) -> Iterator[Worker]:
        values = {
            "python": self.home.python,
            "work": self.home.work,
            "queue": environment["BENCH_QUEUE"],
            "url": self.url,
        }
        worker = Worker([part.format(**values) for part in self.peer.command], environment)
        try:
            yield worker
        finally:
            worker.stop()

    def _figure(
        self, scenario: str, name: str, unit: str, values: list[float], better: str = "more", **facts: Any
    ) -> dict[str, Any]:
        return {
            "kind": "figure", "broker": self.broker, "who": self.peer.name, "scenario": scenario, "name": name,
            "unit": unit, "values": values, "better": better, "facts": facts,
        }  # fmt: skip


class Worker:
    """The peer's own worker program, in a process group of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._report = Path(environment["BENCH_REPORT"])
        self._log = self._report.with_suffix(".log")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=HERE, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def count_to(self, jobs: int, within: float) -> None:
        """Wait until so many jobs have run."""
        count = self._report.with_suffix(".count")

        def reached() -> bool:
            if self._process.poll() is not None:
                raise PeerFailed(f"its worker ended: {self._last()}")
            return count.exists() and int(count.read_text() or 0) >= jobs

        if not _until(reached, within):
            done = count.read_text() if count.exists() else "none"
            raise PeerFailed(f"its worker has run {done} of {jobs} jobs after {within:g} s: {self._last()}")

    def report(self) -> dict[str, Any]:
        """Return what the process that runs the jobs has counted."""
        self._report.with_suffix(".ask").touch()
        if not _until(self._report.exists, 10.0):
            raise PeerFailed(f"its worker does not report: {self._last()}")
        return json.loads(self._report.read_text())

    def kill(self) -> None:
        """End it and all that it started, with SIGKILL."""
        with suppress(ProcessLookupError):  # it has ended, and so has its group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """End it; nothing that it could still say is of interest."""
        if self._process.poll() is None:
            self._process.terminate()
            _until(lambda: self._process.poll() is not None, 1.0)
        self.kill()

    def _last(self) -> str:
        return _telling(self._log.read_text(errors="replace"))


def _telling(output: str) -> str:
    """Return the line of an output that says most: the last with an error in it."""
    lines = output.strip().splitlines() or ["it printed nothing"]
    return next((line.strip() for line in reversed(lines) if "Error" in line), lines[-1])


def _until(happened: Callable[[], bool], within: float) -> bool:
    end = time.monotonic() + within
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the nearest-rank percentile."""
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[min(max(int(rank), 1), len(ordered)) - 1]


def _unfinished(entries: list[Any]) -> int:
    """Count the jobs that were started and not ended."""
    started = {entry.number for entry in entries if entry.what == "start"}
    return len(started - {entry.number for entry in entries if entry.what == "end"})
