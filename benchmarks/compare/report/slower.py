"""Where taskcore is slower: found by comparing, so that it cannot be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.compare.report.wording import factor, times
from benchmarks.compare.run import RAW, US, Ratio, Run
from taskcore.bench import Figure, show

__all__ = ["LOSSES", "SLOWER", "TIES", "Loss", "loss_rows", "losses"]

NOTICEABLE = 1.05  #: less than that is noise
LOSSES = ("broker", "where", "fastest other", "theirs", "taskcore's", "by", "in rounds", "others, other figures")
SLOWER = (
    "Every figure in which another library was better in every common round, by more than 5% in the median, and lost "
    "no job; nothing is left out. Each scenario and broker has one line, with the greatest loss; all others stand at "
    "its end. A figure of a single round has no spread and may be chance."
)
TIES = (
    "Ties: another library was better in the median of the rounds, but by 5% at most, or taskcore was at least as good "
    "in one of them."
)


class Loss(NamedTuple):
    """A figure in which another library is better."""

    ours: Figure
    theirs: Figure
    factor: Ratio

    @property
    def tie(self) -> bool:
        """Whether the rounds do not agree on it, or it is less than noise."""
        return self.factor.low <= 1 or self.factor.middle <= NOTICEABLE

    @property
    def group(self) -> tuple[str, str]:
        """The broker and the scenario; each arrival rate is a scenario of its own."""
        rate = f": {self.ours.name.partition(',')[0]}" if self.ours.scenario == "latency" else ""
        return self.ours.broker, f"{self.ours.scenario}{rate}"


def losses(run: Run) -> list[Loss]:
    """Find every figure in which a peer that lost no jobs is better in the rounds' median, the greatest loss first."""
    found = []
    for theirs in run.figures:
        if theirs.who in (US, RAW) or not theirs.better or theirs.lost:
            continue
        ours = run.find(theirs.broker, US, theirs.scenario, theirs.name)
        factor = run.ratio(theirs, ours) if ours is not None else None
        if ours is not None and factor is not None and factor.middle > 1:
            found.append(Loss(ours, theirs, factor))
    return sorted(found, key=lambda loss: -loss.factor.middle)


def loss_rows(run: Run, found: Sequence[Loss]) -> list[list[str]]:
    """Return a line for each scenario and broker, the greatest loss in full, the others in short."""
    groups: dict[tuple[str, str], list[Loss]] = {}
    for loss in found:
        groups.setdefault(loss.group, []).append(loss)
    return [
        [
            run.title(first.ours.broker), f"{first.ours.scenario}: {first.ours.name}", first.theirs.who,
            f"{show(first.theirs.median)} {first.theirs.unit}", f"{show(first.ours.median)} {first.ours.unit}",
            factor(first.factor), f"{first.factor.better} of {first.factor.rounds}", _others(rest),
        ]
        for first, *rest in groups.values()
    ]  # fmt: skip


def _others(rest: Sequence[Loss]) -> str:
    """List all others that were better, in which figures, and by how much."""
    found: dict[str, list[Loss]] = {}
    for loss in rest:
        found.setdefault(loss.theirs.who, []).append(loss)
    return "; ".join(f"{who}: {_figures(each)}" for who, each in found.items())


def _figures(rest: Sequence[Loss]) -> str:
    names = [one.ours.name.rpartition(", ")[2] if one.ours.scenario == "latency" else one.ours.name for one in rest]
    least, most = times(rest[-1].factor.middle), times(rest[0].factor.middle)  # as they are sorted
    return f"{', '.join(sorted(names))} ({f'{least} … ' if least != most else ''}{most} ×)"
