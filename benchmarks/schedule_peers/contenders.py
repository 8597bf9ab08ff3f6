"""Who takes part, as processes: those that only work, and those that schedule, of which one is killed at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1] / "peers"))
from environment import prepare, read

__all__ = ["CONTENDERS", "Contender", "Running", "make"]

HERE = Path(__file__).parent
CONTENDERS = ("taskcore", "Celery beat", "two Celery beats", "BullMQ")


class Contender(NamedTuple):
    """Who takes part.

    :param stays: commands of processes that are not killed.
    :param dies: commands of those that schedule; one of them is killed at a time.
    :param settings: what the report says about it.
    """

    name: str
    version: str
    stays: Sequence[Sequence[str]]
    dies: Sequence[Sequence[str]]
    settings: str


def make(name: str, folder: Path) -> Contender:
    """Describe a contender; its environment is made now if it is not there.

    :raises PeerFailed: its library cannot be installed.
    """
    if name == "taskcore":
        from taskcore import __version__  # noqa: PLC0415 - the other contenders have environments of their own

        worker = [sys.executable, "-m", "taskcore", "worker", "taskcore_:app", "--app-dir", str(HERE)]
        worker += ["--log-level", "warning"]
        return Contender(name, __version__, [], [worker, worker], "two workers, of which one is killed at a time")
    home = prepare(read("bullmq" if name == "BullMQ" else "celery"))
    if name == "BullMQ":
        shutil.copy(HERE / "bullmq.mjs", home.work / "schedules.mjs")
        worker = ["node", str(home.work / "schedules.mjs")]
        settings = "two workers, of which one is killed at a time; upsertJobScheduler at the start of each"
        return Contender(name, home.version, [], [worker, worker], settings)
    celery = [str(home.python), "-m", "celery", "-A", "celery_", "--workdir", str(HERE)]
    worker = [*celery, "worker", "--pool", "solo", "--loglevel", "ERROR"]
    number = 2 if name.startswith("two") else 1
    beats = [
        [*celery, "beat", "--loglevel", "ERROR", "-s", str(folder / f"beat-{one}"), "--pidfile", ""]
        for one in range(number)
    ]
    settings = "one worker, which stays, and one beat, which is killed" if number == 1 else (
        "one worker, which stays, and two beats, of which one is killed at a time; its guide advises against two"
    )  # fmt: skip
    return Contender(name, home.version, [worker], beats, settings)


class Running:
    """The processes of a contender."""

    def __init__(self, contender: Contender, url: str, folder: Path, number: int) -> None:
        self.contender = contender
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self._log = folder / "log"
        self._environment = os.environ | {
            "SCHEDULES_URL": url, "SCHEDULES_LEDGER": str(self.ledger), "SCHEDULES_NUMBER": str(number),
        }  # fmt: skip
        self._stay: list[subprocess.Popen[bytes]] = []
        self._die: list[subprocess.Popen[bytes]] = []
        self.kills = 0

    def start(self) -> None:
        """Start all of them."""
        self._stay = [self._start(command) for command in self.contender.stays]
        self._die = [self._start(command) for command in self.contender.dies]

    def kill_one(self) -> None:
        """Kill the next one in turn with SIGKILL, and start it again at once, as a supervisor does."""
        turn = self.kills % len(self._die)
        _kill(self._die[turn])
        self._die[turn] = self._start(self.contender.dies[turn])
        self.kills += 1

    def end(self) -> None:
        """Kill all of them."""
        for process in [*self._stay, *self._die]:
            _kill(process)

    def lines(self) -> list[tuple[str, float]]:
        """Read the ledger."""
        return [(name, float(at)) for name, at in map(str.split, self.ledger.read_text().splitlines())]

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log.open("a") as log:
            return subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, start_new_session=True)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
