"""The kinds of jobs: how often each is sent, to which queue, and how each of them has to end."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

__all__ = ["BLOCK", "KINDS", "LEASE", "QUEUES", "End", "Kind", "kind_of", "queue_of"]

End: TypeAlias = Literal["succeeded", "dead", "cancelled", "expired"]

LEASE = 4.0  #: seconds: short, so that frozen workers lose their leases
BLOCK = 1.5  #: leases for which a job of the kind ``blocking`` holds up its event loop
POISON_CRASHES = 3  #: starts that a job of the kind ``poison`` has
INNOCENT_CRASHES = 40  #: every other kind: the faults may kill its worker again and again, and it is no poison for that


class Kind(NamedTuple):
    """One kind of jobs.

    :param ends: how a job of it may end.
    :param weight: how many of a hundred jobs, about; 0: other rules say when it is sent.
    :param batched: whether the batch sender sends it, too.
    :param attempts: how many attempts its policy has.
    :param reason: how the reason of its dead letter begins.
    :param queue: what its queue is called behind the name of the run: not every worker listens to all of them.
    """

    name: str
    about: str
    ends: tuple[End, ...] = ("succeeded",)
    weight: float = 5.0
    batched: bool = True
    attempts: int = 5
    reason: str = ""
    queue: str = ""

    @property
    def crashes(self) -> int:
        """How many starts may kill their process before it is called poison."""
        return POISON_CRASHES if self.name == "poison" else INNOCENT_CRASHES


_ALL = (
    Kind("fast", "returns at once", weight=25.0),
    Kind("slow", "runs for up to six seconds: longer than the grace of a stop, and than a lease", weight=3.0),
    Kind("thread", "a plain function, which runs in a thread", weight=8.0),
    Kind("process", 'a plain function with runs_in="process"', weight=2.0),
    Kind("retried", "fails twice, then succeeds", weight=8.0),
    Kind("rejected", "raises Reject", ends=("dead",), weight=3.0, reason="rejected: "),
    Kind("snoozed", "raises Snooze twice, then succeeds"),
    Kind("later", "raises RetryLater, then succeeds"),
    Kind("keyed", "has a key that other calls have, too", weight=8.0),
    Kind("delayed", "waits for up to three seconds in the broker", weight=8.0),
    Kind("expiring", "has a deadline, often before its delay is over", ends=("succeeded", "expired")),
    Kind("cancelled", "is delayed, then cancelled", ends=("succeeded", "cancelled"), weight=4.0, batched=False),
    Kind("once", 'has delivery="at_most_once"', weight=6.0, attempts=1),
    Kind("large", "carries 60 KB there and back", weight=2.0),
    Kind("awaited", "its caller waits for the result", batched=False),
    Kind(
        "poison",
        "ends its worker at every start",
        ends=("dead",),
        weight=0.08,
        batched=False,
        reason="poison",
        queue="-rough",
    ),
    Kind("blocking", "blocks the event loop for longer than a lease", weight=0.6, batched=False),
    Kind("depends", "has dependencies of the scopes app and job; its first attempt fails", weight=4.0),
    Kind("soft", "hears that its soft time limit is over, and returns", weight=1.5),
    Kind("softthread", "the same in a thread", weight=1.0),
    Kind("softprocess", "the same in a process", weight=0.7, batched=False),
    Kind("bulk", "comes in bursts, in a queue that one scaled supervisor works at", weight=0.0, queue="-bulk"),
    Kind("tick", "is sent by a schedule, each second", weight=0.0),
)

KINDS = {kind.name: kind for kind in _ALL}


QUEUES = tuple(sorted({kind.queue for kind in _ALL}))


def kind_of(job: str) -> Kind:
    """Return the kind of a job, by its id; the ids of ticks are the library's."""
    return KINDS.get(job.partition("-")[0], KINDS["tick"])


def queue_of(kind: str, run: str) -> str:
    """Return the queue of a kind in a run."""
    return run + KINDS[kind].queue
