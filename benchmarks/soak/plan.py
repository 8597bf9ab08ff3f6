"""The plan: which faults, and when; a pure function of the seed, so that a run can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["WORKERS", "Fault", "FaultKind", "plan"]

FaultKind: TypeAlias = Literal["kill", "pause", "stop", "cut", "black hole", "restart"]

WORKERS = 3
GAP = 3.0  #: seconds between two faults, on average
CALM = 2.0  #: seconds without a fault at the beginning and at the end

#: Of so many faults in a row each is done once, in a random order; so a short run has every kind, too.
PROCESS_FAULTS: Sequence[tuple[FaultKind, str]] = (
    ("kill", "worker"), ("kill", "worker"), ("pause", "worker"), ("pause", "worker"), ("stop", "worker"),
    ("kill", "sender"), ("pause", "sender"), ("stop", "sender"), ("kill", "batch-sender"), ("stop", "batch-sender"),
)  # fmt: skip
NETWORK_FAULTS: Sequence[FaultKind] = ("cut", "cut", "black hole")
SERVER_FAULTS: Sequence[FaultKind] = ("kill", "restart")
LENGTHS: dict[FaultKind, tuple[float, float]] = {
    "kill": (0.1, 2.0),  #: until it is started again
    "pause": (0.5, 9.0),  #: shorter and longer than a lease
    "stop": (0.1, 1.0),
    "cut": (0.0, 0.0),
    "black hole": (0.5, 7.0),
    "restart": (0.1, 2.0),
}


class Fault(NamedTuple):
    """One fault.

    :param at: seconds since the beginning.
    :param target: ``worker-1``, ``sender``, ``workers' connections``, ``broker``, ``store``, …
    :param seconds: how long it lasts, as far as that is ours to say.
    """

    at: float
    kind: FaultKind
    target: str
    seconds: float


def plan(seed: int, seconds: float, networks: Sequence[str], servers: Sequence[str]) -> list[Fault]:
    """Plan the faults of a run.

    :param networks: the connections that may be cut.
    :param servers: those that may be killed.
    """
    dice = random.Random(seed)
    faults: list[Fault] = []
    at = CALM
    for kind, target in _bags(dice, networks, servers):
        at += dice.uniform(0.0, 2 * GAP)
        if at > seconds - CALM:
            return faults
        name = f"worker-{dice.randint(1, WORKERS)}" if target == "worker" else target
        faults.append(Fault(round(at, 2), kind, name, round(dice.uniform(*LENGTHS[kind]), 2)))
    return faults


def _bags(dice: random.Random, networks: Sequence[str], servers: Sequence[str]) -> Iterator[tuple[FaultKind, str]]:
    while True:
        bag = list(PROCESS_FAULTS)
        bag += [(kind, target) for target in networks for kind in NETWORK_FAULTS]
        bag += [(kind, target) for target in servers for kind in SERVER_FAULTS]
        dice.shuffle(bag)
        yield from bag
