"""The processes of a run: each has lives, one after the other; when one ends, whatever the reason, the next begins."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec

from benchmarks.soak.kinds import LEASE
from benchmarks.soak.ledger import PATH, WHO, Ledger
from benchmarks.soak.tasks import GRACE, POISONED, Spec
from benchmarks.soak.worker import UNREACHABLE
from taskcore.faults.child import Child

__all__ = ["RUN", "Member"]

ROOT = Path(__file__).parents[2]
RUN = "SOAK_RUN"  #: a variable that all processes of a run have, also those that they start
STOPS_WITHIN = GRACE + 15.0 + LEASE + 10.0  #: seconds: the grace, the worker's own last resort, and a busy machine
REBIRTH = 0.3  #: seconds until the next life of a process that ended by itself
REPEAT = 2.0  #: … of one that could not connect


class Member:
    """One process of the run.

    :param folder: where its ledger and its output go.
    :param harness: the ledger in which its deaths are written down.
    """

    def __init__(self, name: str, program: Sequence[str], spec: Spec, folder: Path, harness: Ledger) -> None:
        self.name = name
        self.turn = anyio.Lock()  #: one fault at a time
        self._program = program
        self._spec = spec
        self._folder = folder
        self._harness = harness
        self._life = 0
        self._child: Child | None = None
        self._told = True  # whether the death of this life is written down
        self._wanted = False

    @property
    def who(self) -> str:
        """The name of its present life."""
        return f"{self.name}.{self._life}"

    def start(self) -> None:
        """Begin a life."""
        self._life += 1
        spec = msgspec.structs.replace(self._spec, seed=self._spec.seed + self._life)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKCORE_")}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._child = Child(
            [sys.executable, "-m", self._program[0], msgspec.json.encode(spec).decode(), *self._program[1:]],
            output=self._folder / f"{self.who}.log",
            environment=kept
            | {
                "PYTHONPATH": path,
                "PYTHONUNBUFFERED": "1",
                RUN: str(self._folder),
                WHO: self.who,
                PATH: str(self._folder / f"{self.who}.jsonl"),
            },
            folder=self._folder,
        )
        self._child.start()
        self._told, self._wanted = False, True

    async def supervise(self) -> None:
        """Begin the next life whenever one has ended; for ever."""
        while True:
            await anyio.sleep(REBIRTH)
            async with self.turn:
                if self._wanted and self._child is not None and not self._child.running:
                    self._tell_death(asked="")
                    if self._child.status == UNREACHABLE:
                        await anyio.sleep(REPEAT)
                    self.start()

    # ── what a fault does ──

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._child is not None:
            self._child.kill()
            self._tell_death(asked="SIGKILL")

    def pause(self) -> None:
        """Freeze it."""
        if self._child is not None:
            self._child.pause()

    def resume(self) -> None:
        """Let it go on."""
        if self._child is not None:
            self._child.resume()

    async def retire(self) -> None:
        """Stop it for good, when no fault and no rebirth is under way."""
        async with self.turn:
            await self.stop()

    async def stop(self) -> None:
        """Ask it to end (SIGTERM), and wait; what does not end in time is an offence, and is killed."""
        if self._child is None:
            return
        self._wanted = False
        self._harness.write("asked", who_asked=self.who)
        self._child.send(signal.SIGTERM)
        try:
            await self._child.wait(STOPS_WITHIN)
        except TimeoutError:
            self._offend(f"did not end within {STOPS_WITHIN:g} s of SIGTERM")
        self._child.kill()
        self._tell_death(asked="SIGTERM")

    def forget(self) -> None:
        """End it, whatever state it is in."""
        self._wanted = False
        if self._child is not None:
            self._child.kill()

    def _tell_death(self, asked: str) -> None:
        """Write a death down, once; one that no fault explains is an offence."""
        if self._child is None or self._told:
            return
        self._told = True
        status = self._child.status
        self._harness.write("died", life=self.who, status=status, asked=asked)
        expected = {POISONED, UNREACHABLE, *([0, -15, -9] if asked else ())}
        if status not in expected:
            self._offend(f"ended with status {status}" + (f" after {asked}" if asked else " by itself"))

    def _offend(self, what: str) -> None:
        end = self._child.tail(12) if self._child is not None else ""
        self._harness.write("offence", call=self.who, error=what, output=end)
