"""A toy queue that is correct by construction, and writes the history that a correct queue would."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from taskcore.conformance.checking import FoundLetter, Left, Snapshot
from taskcore.testing.history import History

__all__ = ["ATTEMPTS", "CRASHES", "LEASE", "ToyQueue"]

ATTEMPTS, CRASHES, LEASE = 3, 2, 10.0


class ToyJob:
    """One job and what became of it so far."""

    def __init__(self, name: str, *, due: float, expires: float | None) -> None:
        self.name = name
        self.due = due
        self.deadline = float("inf") if expires is None else expires
        self.errors: list[str] = []
        self.crashes = 0
        self.starts = 0


class ToyQueue:
    """Enqueues, runs and settles jobs in simulated time; what happens is chosen by the caller.

    :param choose: one of several things; a test draws it, so that every possible history can occur.
    :param calm: no delays, no deadlines, one enqueue for each job: a queue that keeps the order.
    """

    def __init__(self, choose: Callable[[Sequence[Any]], Any], *, calm: bool = False) -> None:
        self.now = 100.0
        self.history = History(clock=lambda: self.now)
        self.choose = choose
        self.calm = calm
        self.excused = 0  #: runs more than necessary that crashes and lost leases caused
        self._waiting: list[tuple[float, int, ToyJob]] = []
        self._order = count()
        self._worker = 1
        self._runs = count(1)
        self._outcomes: dict[str, str] = {}
        self._letters: list[FoundLetter] = []
        for who in ("client", "w1"):
            self.history.record("event", "", who=who, name="listening")

    @property
    def who(self) -> str:
        """The worker that is alive."""
        return f"w{self._worker}"

    @property
    def final(self) -> Snapshot:
        """What is left."""
        dead = frozenset(letter.job for letter in self._letters)
        return Snapshot({"q": Left(dead=dead)}, dict(self._outcomes), tuple(self._letters))

    # ── enqueue ──

    def enqueue(self, name: str) -> None:
        """Enqueue one job, with whatever answer."""
        delay, expires = (0.0, None) if self.calm else self.choose([(0.0, None), (5.0, None), (0.0, 20.0)])
        stored = self._publish(name, delay, expires, known=False)
        if stored is None:  # the answer is uncertain, so the client repeats it
            stored = self._publish(name, delay, expires, known=self.choose([True, False]))
        if stored is not None and not self.calm and self.choose([False, False, False, True]) and delay:
            self._waiting = [item for item in self._waiting if item[2].name != name]
            heapq.heapify(self._waiting)
            self.history.record("cancelled", name, who="client")
            self._outcomes[name] = "cancelled"

    def _publish(self, name: str, delay: float, expires: float | None, *, known: bool) -> bool | None:
        self._tick()
        facts = {"delay": delay or None, "expires": expires}
        facts = {key: value for key, value in facts.items() if value is not None}
        self.history.record("invoke", name, who="client", queue="q", envelope=f"bytes of {name}", **facts)
        began = self.now
        there = any(item[2].name == name for item in self._waiting)
        answers = ["ok"] if self.calm else ["ok", "ok", "ok", "refused", "stored, uncertain", "not stored, uncertain"]
        answer = "duplicate" if there else self.choose(answers)
        if answer in ("ok", "stored, uncertain") and not there:
            job = ToyJob(name, due=self.now + delay, expires=None if expires is None else self.now + expires)
            self._put(job, job.due)
        self._tick()
        kind = "uncertain" if "uncertain" in answer else answer
        self.history.record(kind, name, who="client", took=self.now - began)
        if kind in ("uncertain", "duplicate"):
            self.history.record("event", name, who="client", name=f"job.{kind}")
        return None if kind == "uncertain" else True

    def _put(self, job: ToyJob, due: float) -> None:
        job.due = due
        heapq.heappush(self._waiting, (due, next(self._order), job))

    def _tick(self) -> None:
        self.now += self.choose([0.25, 0.5, 1.0])

    # ── work ──

    def drain(self) -> None:
        """Run until nothing is left."""
        while self._waiting:
            due, _, job = heapq.heappop(self._waiting)
            self.now = max(self.now, due)
            self._tick()
            self._perform(job)

    def _perform(self, job: ToyJob) -> None:
        self._tell(job, "received", envelope=f"bytes of {job.name}", redeliveries=job.crashes)
        if self.now > job.deadline:
            self._settle(job, "ack", event="job.expired")
            self._outcomes[job.name] = "expired"
        elif job.crashes >= CRASHES:
            self._bury(job, "poison")
        else:
            self._run(job)

    def _run(self, job: ToyJob) -> None:
        run = {"run": next(self._runs), "attempt": len(job.errors) + 1}
        job.starts += 1
        self.history.record("start", job.name, who=self.who, **run)
        self._tick()
        end = self.choose(["returns", "returns", "raises", "dies", "is interrupted", "dies unsettled", "is lost"])
        if end == "dies":
            self._die(job)
            return
        if end == "is interrupted":
            self.history.record("end", job.name, who=self.who, outcome="interrupted", **run)
            self._settle(job, "release", event="job.released")
            self._put(job, self.now)
            return
        if end == "raises":
            self._raise(job, run)
            return
        self.history.record("effect", job.name, who=self.who, key=f"{job.name}/{job.starts}")
        self.history.record("end", job.name, who=self.who, outcome="returned", **run)
        if end == "dies unsettled":
            self._die(job)
        elif end == "is lost":
            job.crashes += 1
            self.excused += 1
            self.history.record("lost", job.name, who=self.who, verdict="ack", took=0.0)
            self._tell(job, "job.lost")
            self._put(job, self.now)
        else:
            self._settle(job, "ack", event="job.succeeded", sure=self.choose([True, True, False]))
            self._outcomes[job.name] = "succeeded"

    def _raise(self, job: ToyJob, run: dict[str, Any]) -> None:
        error = f"ValueError: {job.name} failed for the {len(job.errors) + 1}. time"
        self.history.record("end", job.name, who=self.who, outcome="raised", error=error, **run)
        job.errors.append(error)
        if len(job.errors) >= ATTEMPTS:
            self._bury(job, "exhausted")
        else:
            after = self.choose([0.0, 4.0])
            began = self.now
            self._settle(job, "reschedule", event="job.retried", after=after, began=began)
            self._put(job, began + after)

    def _die(self, job: ToyJob) -> None:
        job.crashes += 1
        self.excused += 1
        self.history.record("died", "", who=self.who)
        self._worker += 1
        self.history.record("event", "", who=self.who, name="listening")
        self._put(job, self.now + LEASE)

    def _bury(self, job: ToyJob, reason: str) -> None:
        trail = f"trail of {job.name}"
        self._settle(job, "bury", event="job.buried", reason=reason, trail=trail)
        self._outcomes[job.name] = "dead"
        self._letters.append(
            FoundLetter(
                id=f"letter of {job.name}",
                job=job.name,
                envelope=f"bytes of {job.name}",
                trail=trail,
                reason=reason,
                errors=tuple(job.errors),
                attempts=len(job.errors),
                crashes=job.crashes,
            )
        )

    def _settle(self, job: ToyJob, verdict: str, *, event: str, sure: bool = True, **facts: Any) -> None:
        facts.setdefault("began", self.now)
        self._tick()
        if sure:
            self.history.record("settled", job.name, who=self.who, verdict=verdict, took=0.5, **facts)
        else:
            self._tell(job, "settle.uncertain", verdict=verdict, **facts)
        self._tell(job, event)

    def _tell(self, job: ToyJob, name: str, **facts: Any) -> None:
        self.history.record("event", job.name, who=self.who, name=name, **facts)
