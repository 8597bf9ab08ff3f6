"""A supervisor and its processes: ``taskcore worker`` with options, and what can be done to the parts of it."""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import anyio

from benchmarks.soak.app import CODE, Spec
from benchmarks.soak.ledger import Ledger
from benchmarks.soak.members import BUSY, LAST_RESORT, Member
from benchmarks.soak.tasks import LEAK, POISONED
from taskcore.faults.child import Child

__all__ = ["DEEDS", "Fleet"]

ORPHANS_BUSY = 45.0  #: seconds beside: a process may just be starting, and that takes long on a busy machine
NO_APP, NO_BROKER = 3, 4  #: exit codes of a command that found broken code or no broker at its start: no offence
READY = "ready in "  #: what it says once it could
LEAKED_EACH = 524_288  #: bytes that each job leaves in a process that is to be replaced for its size
FELL = re.compile(r"process (\d+) (.+?); it (?:ran for|last occupied)")  #: a line about a process that ended by itself
STATUS = "exited with code"  #: … with these words, if no signal ended it
#: what a supervisor does by itself, and how its log says so
DEEDS = {
    "replaced after so many jobs": re.compile("is replaced: .* jobs have ended"),
    "replaced for its size": re.compile("is replaced: it occupies"),
    "processes added or retired": re.compile("processes instead of"),
    "reloaded": re.compile("changed: program.py; starting"),
    "restarted after a death": re.compile("ran for .* the next starts in"),
    "blocks of a loop named": re.compile("loop blocked for .* in .*tasks.py"),
}
PROGRAM = """import os

os.environ["{variable}"] = "{number}"
from benchmarks.soak.program import app

__all__ = ["app"]
"""
BROKEN = "this is no Python, because its author has not finished the line\n"


class _Orphans(NamedTuple):
    """The processes of a supervisor that was killed."""

    who: str
    child: Child
    until: float


class Fleet(Member):
    """One supervisor.

    :param options: of ``taskcore worker``.
    :param leaks: whether its jobs leave something in memory.
    :param reloads: whether it has code of its own, which changes.
    """

    expected = ()

    def __init__(
        self,
        name: str,
        options: Sequence[str],
        spec: Spec,
        folder: Path,
        harness: Ledger,
        *,
        leaks: bool = False,
        reloads: bool = False,
    ) -> None:
        super().__init__(name, options, spec, folder, harness)
        self._dice = random.Random(spec.seed)
        self._leaks = leaks
        self._code = 0
        self._place = folder / f"{name}-code"
        self._orphans: list[_Orphans] = []
        self._target: int | None = None
        self._shot: set[int] = set()
        self.reloads = reloads
        if reloads:
            self._place.mkdir()
            self._write_code()

    def command(self, _: Spec) -> list[str]:
        """Make the command line of a life."""
        app = ["program:app", "--app-dir", str(self._place)] if self._code else ["benchmarks.soak.program:app"]
        return [sys.executable, "-P", "-m", "taskcore", "worker", *app, *self._program]

    def environment(self) -> dict[str, str]:
        """Make the variables that this member has, and no other."""
        return {LEAK: str(LEAKED_EACH)} if self._leaks else {}

    async def supervise(self) -> None:
        """Begin the next life whenever one has ended, and watch what killed supervisors leave behind; for ever."""
        async with anyio.create_task_group() as group:
            group.start_soon(super().supervise)
            while True:
                await anyio.sleep(BUSY / 20)
                self._bury_orphans()

    # ── what a fault does ──

    def aim(self, kind: str) -> str:
        """Choose the process for a fault that hits one of them."""
        self._target = None
        if kind in {"kill one", "pause one"}:
            children = [] if self.pid is None else sorted(_children(self.pid))
            self._target = self._dice.choice(children) if children else None
        return self.who if self._target is None else f"{self.who}/{self._target}"

    def kill_one(self) -> None:
        """End one of its processes with SIGKILL."""
        if self._target is not None:
            self._shot.add(self._target)
        self._signal_one(signal.SIGKILL)

    def pause_one(self) -> None:
        """Freeze one of its processes."""
        self._signal_one(signal.SIGSTOP)

    def resume_one(self) -> None:
        """Let that process go on."""
        self._signal_one(signal.SIGCONT)

    def _signal_one(self, number: signal.Signals) -> None:
        if self._target is not None:
            with suppress(ProcessLookupError):
                os.kill(self._target, number)

    def orphan(self) -> None:
        """End the supervisor alone with SIGKILL; its processes have to notice, and to end by themselves."""
        if self._child is not None and self._child.running:
            self._child.send(signal.SIGKILL)
            until = time.monotonic() + self._spec.grace + LAST_RESORT + ORPHANS_BUSY
            self._orphans.append(_Orphans(self.who, self._child, until))
            self._told = True
            self._harness.write("died", life=self.who, status=-9, asked="SIGKILL alone")

    def _bury_orphans(self) -> None:
        for one in list(self._orphans):
            left = sorted(_living(one.child.pid))
            if left and time.monotonic() < one.until:
                continue
            self._orphans.remove(one)
            if left:
                self._harness.write(
                    "offence", call=one.who, error=f"processes {left} live on without their supervisor", output=""
                )
            one.child.kill()

    def break_code(self) -> None:
        """Write code that cannot be imported."""
        (self._place / "program.py").write_text(BROKEN)

    def reload(self) -> None:
        """Write new code."""
        self._write_code()

    def _write_code(self) -> None:
        self._code += 1
        (self._place / "program.py").write_text(PROGRAM.format(variable=CODE, number=self._code))
        self._harness.write("code", life=self.name, number=str(self._code))

    def look_after_its_end(self) -> None:
        """See that no process stays when its supervisor has ended."""
        if self._child is not None and not self._child.running and (left := sorted(_living(self._child.pid))):
            self._offend(f"ended before its processes {left}")

    async def retire(self) -> None:
        """Stop it for good; wait for the processes of killed supervisors, too."""
        await super().retire()
        while self._orphans:
            await anyio.sleep(BUSY / 20)
            self._bury_orphans()

    def forget(self) -> None:
        """End everything of it."""
        super().forget()
        for one in self._orphans:
            one.child.kill()

    # ── what it said ──

    def is_excused(self, status: int | None) -> bool:
        """Tell whether a life may end so by itself: it could not start."""
        said = (self._folder / f"{self.who}.log").read_text(errors="replace")
        return status in {NO_BROKER, NO_APP if self._code else NO_BROKER} and READY not in said

    def read_logs(self) -> Counter[str]:
        """Read what the supervisors said: find processes that ended by themselves, and count what was done else."""
        done: Counter[str] = Counter()
        for log in sorted(self._folder.glob(f"{self.name}.*.log")):
            for line in log.read_text(errors="replace").splitlines():
                found = FELL.search(line)
                if found and not self._may_fall(int(found[1]), found[2]):
                    self._harness.write("offence", call=log.stem, error=line[:300], output="")
                done.update(name for name, said in DEEDS.items() if said.search(line))
        return done

    def _may_fall(self, pid: int, how: str) -> bool:
        return pid in self._shot or how in {f"{STATUS} {code}" for code in (POISONED, NO_APP, NO_BROKER)}


def _living(group: int) -> Iterator[int]:
    """Yield the processes of a group that have not ended."""
    for pid, state, _, of in _processes():
        if of == group and state != "Z":
            yield pid


def _children(parent: int) -> Iterator[int]:
    for pid, state, ppid, _ in _processes():
        if ppid == parent and state != "Z":
            yield pid


def _processes() -> Iterator[tuple[int, str, int, int]]:
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            state, ppid, group = (place / "stat").read_text("ascii", "replace").rpartition(")")[2].split()[:3]
            yield int(place.name), state, int(ppid), int(group)
