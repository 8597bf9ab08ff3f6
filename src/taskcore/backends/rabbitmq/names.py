"""Everything of ours on the broker: names, arguments, and how a job finds its way.

    tc.jobs        direct exchange    <queue> ─▶ tc.q.<queue>                a job that is due
    tc.schedule    topic exchange     #.<queue> ─▶ tc.delay.30               a job for later
    tc.delay.<k>   topic exchange     bit k of the key is 1 ─▶ queue tc.delay.<k>, where it waits 2^k × 125 ms
                                      bit k is 0, or the wait is over ─▶ tc.delay.<k-1>
    tc.due         topic exchange     #.<queue> ─▶ tc.q.<queue>              behind the last level
                                      nothing bound ─▶ tc.lost               its queue was deleted meanwhile

    tc.q.<queue>      the jobs            delivery limit as a safety net, over it ─▶ tc.dead.<queue>
    tc.dead.<queue>   the dead letters    kept until dropped
    tc.queues         names of queues     because the protocol cannot list them
    <both>.reader     nothing             belongs to the connection that looks through them at the moment, as a lock
    tc.lost           jobs whose queue is gone; 30 days, the latest 100,000

The key of a delayed job has 31 words of one bit, then the queue's name in one word: ``0.0. … .1.0.1.mail``. Delays are
rounded up to 125 ms and end after 8.5 years. All queues but ``tc.q.<queue>`` are quorum queues always, because every
app of a virtual host shares them.
"""

from __future__ import annotations

import math
from typing import Any, Final

from taskcore.backends.rabbitmq.options import Options

__all__ = [
    "DUE",
    "FAR",
    "JOBS",
    "LEVELS",
    "LOST",
    "NAMES",
    "SCHEDULE",
    "dead_letters",
    "delay_key",
    "jobs",
    "level",
    "pattern_of_bit",
    "shared",
    "steps_of",
    "word",
]

JOBS: Final = "tc.jobs"
SCHEDULE: Final = "tc.schedule"
DUE: Final = "tc.due"
LOST: Final = "tc.lost"
NAMES: Final = "tc.queues"

UNIT: Final = 0.125  #: seconds that the shortest level waits
LEVELS: Final = 31
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
    """Exchange and queue of a delay level; below the lowest one, what is due."""
    return f"tc.delay.{number}" if number >= 0 else DUE


def word(queue: str) -> str:
    """A queue's name as one word of a routing key; names have dots in them, and no slashes."""
    return queue.replace(".", "/")


def steps_of(delay: float) -> int:
    """A delay in units, rounded up: nothing is early."""
    return math.ceil(delay / UNIT - 1e-9)


def delay_key(queue: str, steps: int) -> str:
    """The routing key of a job that waits for so many units."""
    return f"{'.'.join(f'{steps:0{LEVELS}b}')}.{word(queue)}"


def pattern_of_bit(number: int, bit: int) -> str:
    """Keys in which the bit of a level is 0 or 1."""
    return "*." * (LEVELS - 1 - number) + f"{bit}.#"


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
        "x-dead-letter-exchange": level(number - 1),
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
