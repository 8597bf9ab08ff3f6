"""The processes of a run: each has lives, one after the other; when one ends, whatever the reason, the next begins."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec

from benchmarks.soak.app import SPEC, Spec
from benchmarks.soak.ledger import PATH, WHO, Ledger
from benchmarks.soak.tasks import POISONED
from benchmarks.soak.worker import UNREACHABLE
from taskcore.faults.child import Child

__all__ = ["RUN", "Member"]

ROOT = Path(__file__).parents[2]
RUN = "SOAK_RUN"  #: a variable that all processes of a run have, also those that they start
LAST_RESORT = 8.0  #: seconds after the grace in which a worker or a supervisor ends, whatever its jobs do
BUSY = 10.0  #: … and that a busy machine may need
REBIRTH = 0.3  #: seconds until the next life of a process that ended by itself
REPEAT = 2.0  #: … of one that could not connect


class Member:
    """One process of the run.

    :param program: a module and its arguments, which come behind the spec.
    :param folder: where its ledger and its output go.
    :param harness: the ledger in which its deaths are written down.
    """

    expected: tuple[int, ...] = (POISONED, UNREACHABLE)  #: the statuses with which it may end by itself

    def __init__(self, name: str, program: Sequence[str], spec: Spec, folder: Path, harness: Ledger) -> None:
        self.name = name
        self.turn = anyio.Lock()  #: one fault at a time
        self.stops_within = spec.grace + LAST_RESORT + spec.lease + BUSY
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

    @property
    def pid(self) -> int | None:
        """The process id of its present life; None between two of them."""
        return self._child.pid if self._child is not None and self._child.running else None

    def command(self, spec: Spec) -> list[str]:
        """Make the command line of a life."""
        module, *arguments = self._program
        return [sys.executable, "-m", module, msgspec.json.encode(spec).decode(), *arguments]

    def environment(self) -> dict[str, str]:
        """Make the variables that this member has, and no other."""
        return {}

    def start(self) -> None:
        """Begin a life."""
        self._life += 1
        spec = msgspec.structs.replace(self._spec, seed=self._spec.seed + self._life)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKCORE_")}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._child = Child(
            self.command(spec),
            output=self._folder / f"{self.who}.log",
            environment=kept
            | {
                "PYTHONPATH": path,
                "PYTHONUNBUFFERED": "1",
                RUN: str(self._folder),
                WHO: self.who,
                PATH: str(self._folder / f"{self.who}.jsonl"),
                SPEC: msgspec.json.encode(spec).decode(),
            }
            | self.environment(),
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
                    if self._child.status != POISONED:
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

    def aim(self, _: str) -> str:
        """Name what a fault of this kind will hit: the present life, or one process of it."""
        return self.who

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
            await self._child.wait(self.stops_within)
        except TimeoutError:
            self._offend(f"did not end within {self.stops_within:g} s of SIGTERM")
        self.look_after_its_end()
        self._child.kill()
        self._tell_death(asked="SIGTERM")

    def look_after_its_end(self) -> None:
        """See what it has left behind."""

    def is_excused(self, _: int | None) -> bool:
        """Tell whether this life may end so by itself, besides what is always expected."""
        return False

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
        expected = {*self.expected, *([0, -15, -9] if asked else ())}
        if status not in expected and not self.is_excused(status):
            self._offend(f"ended with status {status}" + (f" after {asked}" if asked else " by itself"))

    def _offend(self, what: str) -> None:
        end = self._child.tail(12) if self._child is not None else ""
        self._harness.write("offence", call=self.who, error=what, output=end)
