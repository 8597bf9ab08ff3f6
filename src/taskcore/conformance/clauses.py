"""The clauses of the delivery contract, by number: a name, and what it means in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

__all__ = ["CLAUSES", "NOT_PROMISED", "Clause", "ClauseViolated"]


class Clause(NamedTuple):
    """One promise."""

    name: str
    means: str


class ClauseViolated(AssertionError):
    """A guarantee is not kept; the text says how, and which clause it breaks if a single one is known."""

    def __init__(self, what: str, clause: str = "") -> None:
        super().__init__(f"{clause} broken: {what}" if clause else what)
        self.what = what
        self.clause = clause


CLAUSES: Final[Mapping[str, Clause]] = {
    "C1": Clause(
        "no loss",
        "A job whose enqueue returned is always in at least one durable place, and at rest in exactly one.",
    ),
    "C2": Clause("no invention", "Every job that starts was enqueued, once for each id, and arrives byte for byte."),
    "C3": Clause("bounded", "A job starts at most `attempts` + `crashes` times."),
    "C4": Clause("progress", "With a healthy worker and broker every job ends, and recovery needs no new traffic."),
    "C5": Clause("monotone", "Attempts, crashes, fences and errors never decrease, whichever process crashes."),
    "C6": Clause("one lease", "At most one unexpired lease exists for a job."),
    "C7": Clause("fencing", "Settling or extending under a lost lease changes nothing durable and is reported."),
    "C8": Clause("ack last", "The broker forgets a job only after its result, retry copy or dead letter is confirmed."),
    "C9": Clause("at most once", "With `at_most_once` a job is forgotten before it starts: one start, no retry."),
    "C10": Clause(
        "once per key", "Within a key's window at most one outcome is committed, and duplicates get that one."
    ),
    "C11": Clause("order", "The order of jobs is not promised, so nothing may rest on it."),
    "C12": Clause(
        "poison", "A job that kills its process is dead after `crashes` starts; jobs beside it are never blamed."
    ),
    "C13": Clause(
        "dead letter", "It holds the bytes as they came, errors, counters, reason and queue; a replay links back."
    ),
    "C14": Clause("cancel", "After `cancel()` returned True the job never starts, and it has one outcome only."),
    "C15": Clause("expiry", "No job starts after its deadline, and an expired job is recorded."),
    "C16": Clause("schedule", "No job starts before its time, and a schedule survives a reconnect."),
    "C17": Clause("backoff", "A retry does not start before its wait is over."),
    "C18": Clause("terminal", "An outcome never changes; a replay is a new job."),
    "C19": Clause("nothing silent", "Every discarded, suppressed, foreign or lost job raises a counter and an event."),
    "C20": Clause(
        "isolation", "Malformed, foreign or oversized bytes become dead letters and do not hold up their neighbours."
    ),
    "C21": Clause(
        "shutdown", "After the first signal no job starts; a released job is available at once and uses no attempt."
    ),
    "C22": Clause("no hang", "Every call ends within its time limit."),
    "C23": Clause("bounded storage", "Everything that is stored expires; after draining, storage is as it was before."),
    "C24": Clause(
        "validated", "A function never runs with arguments that do not fit; such a call never leaves its caller."
    ),
    "C25": Clause("survives", "No task, hook, result, error or message can stop or block a worker."),
}

#: Clauses that promise nothing, so that there is nothing to check.
NOT_PROMISED: Final = frozenset({"C11"})
