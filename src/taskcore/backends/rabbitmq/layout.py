"""Everything of ours on the broker: names, arguments, and how a job finds its way.

    tc.jobs        direct exchange    <queue> ─▶ tc.q.<queue>                a job that is due
    tc.schedule    direct exchange    <queue> ─▶ tc.delay                    a job for later
    tc.delay       headers exchange   its first level, k ─▶ queue tc.delay.<k>, where it waits 2^k × 125 ms
    tc.delay.<k>   headers exchange   its next level behind k ─▶ queue of that level
                                      no more levels ─▶ tc.due
    tc.due         direct exchange    <queue> ─▶ tc.q.<queue>                behind its last level
                                      nothing bound ─▶ tc.lost               its queue was deleted meanwhile
    tc.delay.made  nothing            made last: whoever finds it finds all levels and their bindings

    tc.q.<queue>      the jobs            delivery limit as a safety net, over it ─▶ tc.dead.<queue>
    tc.dead.<queue>   the dead letters    kept until dropped
    tc.queues         names of queues     because the protocol cannot list them
    <both>.reader     nothing             belongs to the connection that looks through them at the moment, as a lock
    tc.lost           jobs whose queue is gone; 30 days, the latest 100,000

A delay is the sum of the levels whose bits are set in it. A delayed job passes them from the highest to the lowest, and
its headers say which comes next behind each: ``tc-in: 6``, ``tc-6: 4``, ``tc-4: due``. So a hop is one look at one
exchange; bits as words of a topic key cost the broker a walk over the whole key at each of 31 exchanges. Delays are
rounded up to 125 ms and end after 8.5 years. All queues but ``tc.q.<queue>`` are quorum queues always, because every
app of a virtual host shares them.
"""

from __future__ import annotations

import math
from typing import Any, Final

from taskcore.backends.rabbitmq.options import Options

__all__ = [
    "DELAY",
    "DUE",
    "FAR",
    "JOBS",
    "LEVELS",
    "LOST",
    "MADE",
    "NAMES",
    "SCHEDULE",
    "dead_letters",
    "jobs",
    "level",
    "nexts_of",
    "route_of",
    "shared",
    "steps_of",
]

JOBS: Final = "tc.jobs"
SCHEDULE: Final = "tc.schedule"
DUE: Final = "tc.due"
DELAY: Final = "tc.delay"
MADE: Final = "tc.delay.made"
LOST: Final = "tc.lost"
NAMES: Final = "tc.queues"

UNIT: Final = 0.125  #: seconds that the shortest level waits
LEVELS: Final = 31
DONE: Final = "due"  #: what comes next behind the last level
FAR: Final = UNIT * (2**LEVELS - 1)  #: seconds: no delay is longer

OFTEN: Final = 1_000_000_000  #: deliveries: -1 means "none" to some versions and "no limit" to others
LOST_KEPT: Final = 30 * 86_400_000  #: milliseconds
LOST_MOST: Final = 100_000

Arguments = dict[str, Any]


def jobs(queue: str) -> str:
    """The broker's name of a queue."""
    return f"tc.q.{queue}"


def dead_letters(queue: str) -> str:
    """The broker's name of the dead letters of a queue."""
    return f"tc.dead.{queue}"


def level(number: int) -> str:
    """The queue of a delay level, and the exchange behind it."""
    return f"{DELAY}.{number}"


def steps_of(delay: float) -> int:
    """A delay in units, rounded up: nothing is early."""
    return math.ceil(delay / UNIT - 1e-9)


def route_of(steps: int) -> dict[str, str]:
    """The headers of a job that waits for so many units: its first level, and the next one behind each."""
    bits = [number for number in reversed(range(LEVELS)) if steps >> number & 1]
    return dict(zip([_behind(None), *map(_behind, bits)], [*map(str, bits), DONE], strict=True))


def nexts_of(number: int | None) -> dict[str, Arguments]:
    """The places that may come next behind a level, or first, and the headers of the jobs that go there."""
    lower = range(LEVELS if number is None else number)
    nexts = {level(below): {"x-match": "all", _behind(number): str(below)} for below in lower}
    return nexts if number is None else nexts | {DUE: {"x-match": "all", _behind(number): DONE}}


def _behind(number: int | None) -> str:
    return "tc-in" if number is None else f"tc-{number}"


def of_jobs(queue: str, options: Options) -> Arguments:
    """The arguments of a queue."""
    quorum = options.queue_type == "quorum"
    made: Arguments = {
        "x-queue-type": options.queue_type,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_letters(queue),
    }
    if quorum:
        made |= {"x-dead-letter-strategy": "at-least-once", "x-delivery-limit": OFTEN}
    if options.limit is not None:
        made["x-max-length"] = options.limit
    if options.consumer_timeout:
        made["x-consumer-timeout"] = options.consumer_timeout * 1000
    return made


def shared() -> Arguments:
    """The arguments of a queue that is looked through."""
    return {"x-queue-type": "quorum", "x-delivery-limit": OFTEN}


def of_level(number: int) -> Arguments:
    """The arguments of a delay level's queue."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": int(UNIT * 1000) << number,
        "x-dead-letter-exchange": level(number),
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-delivery-limit": OFTEN,
    }


def of_lost() -> Arguments:
    """The arguments of the queue for what has nowhere to go."""
    return {
        "x-queue-type": "quorum",
        "x-message-ttl": LOST_KEPT,
        "x-max-length": LOST_MOST,
        "x-overflow": "drop-head",
        "x-delivery-limit": OFTEN,
    }
