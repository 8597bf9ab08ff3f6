"""The order of turns: each scenario goes around all contestants before any goes around again, until time is over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

__all__ = ["GUESSED", "Turn", "Turns", "guess", "share", "wanted"]

RESERVE = 1.15  #: a turn is begun if it would fit even when it takes that much longer than the last one
ONCE = frozenset({"backlog"})  #: says nothing new when it is repeated, and takes longest
#: The scenarios that run in every round; the others run in two of three.
IN_EVERY_ROUND = frozenset({"enqueue", "drain", "latency", "results"})


class Guess(NamedTuple):
    """Seconds that one turn of a scenario takes before it is known: us, each peer, the raw client."""

    ours: float
    peer: float = 0.0
    raw: float = 0.0


#: in the order in which they are wanted: what comes last is left out first
GUESSED: Mapping[str, Guess] = {
    "enqueue": Guess(4, 2, 3),
    "drain": Guess(12, 6, 3),
    "latency": Guess(16, 11),
    "results": Guess(4, 4),
    "worker killed": Guess(9, 12),
    "broker killed": Guess(13),
    "payloads": Guess(5),
    "scheduled": Guess(6),
    "retries": Guess(6),
    "keys": Guess(6),
    "idle": Guess(12),
    "storage": Guess(9),
    "backlog": Guess(40),
}
UNKNOWN = Guess(10, 10, 3)


def guess(scenario: str, *, peers: int, raw: bool, ours: bool = True) -> float:
    """Guess the seconds that one turn of a scenario may take with so many contestants."""
    one = GUESSED.get(scenario, UNKNOWN)
    return one.ours * ours + one.peer * peers + one.raw * raw


def wanted(scenario: str, rounds: int) -> int:
    """Return how many rounds a scenario is to have in a run of so many."""
    return 1 if scenario in ONCE else rounds if scenario in IN_EVERY_ROUND else math.ceil(rounds * 2 / 3)


def share(left: float, weights: Sequence[float]) -> float:
    """Return how much of the time that is left the first of several brokers may use."""
    return left * weights[0] / (sum(weights) or 1.0)


class Turn(NamedTuple):
    """A scenario, which round of it this is, from 1, and of how many if there is time for all."""

    scenario: str
    round: int
    of: int


class Turns:
    """The plan for one broker. It learns from each turn how long the next one of that scenario will take.

    :param guesses: scenario → seconds of one turn, in the order in which they are wanted.
    :param rounds: how many turns each scenario is to have.
    :param until: when the time is over; the clock is the caller's.
    """

    def __init__(self, guesses: Mapping[str, float], rounds: int, until: float = math.inf) -> None:
        self.until = until
        self.wanted = {name: wanted(name, rounds) for name in guesses}
        self.done = dict.fromkeys(guesses, 0)
        self._seconds = dict(guesses)

    def next(self, now: float) -> Turn | None:
        """Return the next turn: of the scenarios that still fit, the one that has had the fewest."""
        fits = [
            name
            for name, rounds in self.wanted.items()
            if self.done[name] < rounds and now + self._seconds[name] * RESERVE <= self.until
        ]
        if not fits:
            return None
        name = min(fits, key=lambda one: self.done[one])  # the first of several
        return Turn(name, self.done[name] + 1, self.wanted[name])

    def took(self, turn: Turn, seconds: float) -> None:
        """Note that a turn is over, and how long it took."""
        self.done[turn.scenario] = turn.round
        self._seconds[turn.scenario] = seconds

    def end(self, scenario: str) -> None:
        """Note that no contestant is left that could have another turn."""
        self.wanted[scenario] = self.done[scenario]

    @property
    def left(self) -> dict[str, tuple[int, int]]:
        """What there was no time for: scenario → turns that it had, turns that it was to have."""
        return {name: (self.done[name], rounds) for name, rounds in self.wanted.items() if self.done[name] < rounds}
