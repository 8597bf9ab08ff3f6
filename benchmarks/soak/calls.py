"""The calls: what a sender asks for, with the random parameters of each kind."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.soak.app import Spec
from benchmarks.soak.kinds import BLOCK, KINDS, Kind, queue_of
from benchmarks.soak.tasks import router
from taskcore import Call
from taskcore.options import UsingOptions

__all__ = ["Request", "burst", "requests"]

LARGE = 60_000  #: characters
KEY_EACH = 0.7  #: seconds for which senders use the same key
BURST = 60  #: jobs of the kind ``bulk`` at once
CALM = 5.0  #: blocked times between two blocks of an event loop, on average at least


class Request(NamedTuple):
    """One job that is to be sent, under its id, until the broker has it.

    :param facts: what the judge needs to know.
    """

    kind: Kind
    id: str
    call: Call[Any]
    facts: dict[str, Any]


def requests(dice: random.Random, spec: Spec, *, batched: bool, all_first: bool) -> Iterator[Request]:
    """Yield requests for ever, their kinds by weight.

    :param all_first: begin with one of each kind.
    """
    kinds = [kind for kind in KINDS.values() if kind.weight and (kind.batched or not batched)]
    next_block = time.monotonic()
    if all_first:
        yield from (_request(kind, dice, spec) for kind in kinds)
    while True:
        [kind] = dice.choices(kinds, [kind.weight for kind in kinds])
        if kind.name == "blocking":  # else long leases would leave no worker that works
            if time.monotonic() < next_block:
                continue
            next_block = time.monotonic() + CALM * BLOCK * spec.lease
        yield _request(kind, dice, spec)


def burst(dice: random.Random, spec: Spec) -> list[Request]:
    """Make more jobs than one process of their supervisor can do in time."""
    return [_request(KINDS["bulk"], dice, spec) for _ in range(BURST)]


def _request(kind: Kind, dice: random.Random, spec: Spec) -> Request:
    number = dice.randrange(1_000_000)
    job_id = f"{kind.name}-{dice.getrandbits(64):016x}"
    options: UsingOptions = {"queue": queue_of(kind.name, spec.queue), "id": job_id}
    facts: dict[str, Any] = {}
    argument: Any = number
    match kind.name:
        case "slow":
            argument = round(dice.uniform(0.5, 6.0), 2)
        case "blocking":
            argument = BLOCK * spec.lease
        case "keyed":
            argument = facts["key"] = f"key {time.time() // KEY_EACH:.0f}"
        case "large":
            argument = f"{number:07}" * (LARGE // 7)
        case "delayed":
            options["delay"] = facts["delay"] = round(dice.uniform(0.1, 3.0), 2)
        case "cancelled":
            options["delay"] = facts["delay"] = round(dice.uniform(0.5, 3.0), 2)
        case "expiring":
            options["delay"] = facts["delay"] = round(dice.uniform(0.0, 2.0), 2)
            options["expires"] = facts["expires"] = round(dice.uniform(0.2, 4.0), 2)
        case _:
            pass
    return Request(kind, job_id, router.tasks[kind.name].using(**options).call(argument), facts)
