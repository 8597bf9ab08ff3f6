"""Where taskcore is slower: found by comparing, so that it cannot be forgotten."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.compare.run import RAW, US, Run
from taskcore.testing.bench import Figure

__all__ = ["AIMS", "Loss", "aims", "losses"]

NOTICEABLE = 1.05  #: less than that is noise

#: broker → scenario and figure → the share of the raw client's limit that we aim at
AIMS = {
    "redis": {("enqueue", "bulk"): 0.5, ("drain", "1 process"): 0.5, ("enqueue", "one awaited"): 0.75},
    "nats": {("enqueue", "bulk"): 0.5, ("drain", "1 process"): 0.5, ("enqueue", "one awaited"): 0.75},
    "rabbitmq": {("enqueue", "bulk"): 0.6, ("drain", "1 process"): 0.6, ("enqueue", "one awaited"): 0.8},
}


class Loss(NamedTuple):
    """A figure in which somebody else is better."""

    ours: Figure
    theirs: Figure
    factor: float


class Aim(NamedTuple):
    """Our share of what the client library alone reaches, and the share that we want."""

    ours: Figure
    raw: Figure
    share: float
    wanted: float


def losses(run: Run) -> list[Loss]:
    """Every figure in which a peer is better by more than noise, the greatest loss first."""
    found = []
    for theirs in run.figures:
        if theirs.who in (US, RAW) or not theirs.better:
            continue
        ours = run.find(theirs.broker, US, theirs.scenario, theirs.name)
        if ours is None or not ours.median or not theirs.median or theirs.lost:
            continue
        ratio = theirs.median / ours.median if theirs.better == "more" else ours.median / theirs.median
        if ratio > NOTICEABLE:
            found.append(Loss(ours, theirs, ratio))
    return sorted(found, key=lambda loss: -loss.factor)


def aims(run: Run) -> list[Aim]:
    """How far we are from the client library's own limit, against what we aim at."""
    found = []
    for broker, wanted in AIMS.items():
        for (scenario, name), share in wanted.items():
            ours, raw = run.find(broker, US, scenario, name), run.find(broker, RAW, scenario, name)
            if ours is not None and raw is not None:
                found.append(Aim(ours, raw, ours.median / raw.median, share))
    return found
