"""The plan: which faults, and when; a pure function of the seed, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

from benchmarks.soak.kinds import LEASE

__all__ = ["REST", "REST_EACH", "Fault", "FaultKind", "plan"]

FaultKind: TypeAlias = Literal[
    "kill",
    "kill one",
    "orphan",
    "pause",
    "pause one",
    "stop",
    "reload",
    "broken reload",
    "cut",
    "black hole",
    "restart",
]

GAP = 3.0  #: seconds between two faults, on average
CALM = 2.0  #: seconds without a fault at the beginning …
REST = 12.0  #: … and at the end, and now and then: what is doubled in these has no fault as its cause
REST_EACH = 150.0  #: seconds from one rest to the next

#: Of so many faults in a row each is done once, in a random order; so a short run has every kind, too.
PROCESS_FAULTS: Sequence[tuple[FaultKind, str]] = (
    ("kill", "worker-plain"), ("stop", "worker-plain"), ("pause", "worker-plain"), ("pause", "worker-veteran"),
    ("kill", "worker-fleet"), ("orphan", "worker-fleet"), ("kill one", "worker-fleet"), ("stop", "worker-fleet"),
    ("kill one", "worker-scaled"), ("pause one", "worker-scaled"), ("pause", "worker-fleet"),
    ("reload", "worker-reload"), ("broken reload", "worker-reload"), ("orphan", "worker-reload"),
    ("kill", "sender"), ("pause", "sender"), ("stop", "sender"), ("kill", "batch-sender"), ("stop", "batch-sender"),
)  # fmt: skip
NETWORK_FAULTS: Sequence[FaultKind] = ("cut", "cut", "black hole")
SERVER_FAULTS: Sequence[FaultKind] = ("kill", "restart")
LENGTHS: dict[FaultKind, tuple[float, float]] = {
    "kill": (0.1, 2.0),  #: until it is started again
    "kill one": (0.0, 0.0),
    "orphan": (0.1, 2.0),
    "pause": (0.5, 9.0),  #: shorter and longer than a lease
    "pause one": (0.5, 9.0),
    "stop": (0.1, 1.0),
    "reload": (0.0, 0.0),
    "broken reload": (0.5, 3.0),  #: until the code is mended
    "cut": (0.0, 0.0),
    "black hole": (0.5, 7.0),
    "restart": (0.1, 2.0),
}


class Fault(NamedTuple):
    """One fault.

    :param at: seconds since the beginning.
    :param target: ``worker-fleet``, ``sender``, ``workers' connections``, ``broker``, ``store``, …
    :param seconds: how long it lasts, as far as that is ours to say.
    """

    at: float
    kind: FaultKind
    target: str
    seconds: float


def plan(seed: int, seconds: float, networks: Sequence[str], servers: Sequence[str], *, lease: float) -> list[Fault]:
    """Plan the faults of a run.

    :param networks: the connections that may be cut.
    :param servers: those that may be killed.
    :param lease: of the workers: some are frozen for longer.
    """
    dice = random.Random(seed)
    faults: list[Fault] = []
    rest = min(REST, seconds / 4)
    at = CALM
    for kind, target in _bags(dice, networks, servers):
        at += dice.uniform(0.0, 2 * GAP)
        if at % REST_EACH > REST_EACH - REST:
            at += REST
        if at > seconds - rest:
            return faults
        length = dice.uniform(*LENGTHS[kind])
        faults.append(Fault(round(at, 2), kind, target, round(length * (lease / LEASE if "pause" in kind else 1.0), 2)))
    return faults


def _bags(dice: random.Random, networks: Sequence[str], servers: Sequence[str]) -> Iterator[tuple[FaultKind, str]]:
    while True:
        bag = list(PROCESS_FAULTS)
        bag += [(kind, target) for target in networks for kind in NETWORK_FAULTS]
        bag += [(kind, target) for target in servers for kind in SERVER_FAULTS]
        dice.shuffle(bag)
        yield from bag
