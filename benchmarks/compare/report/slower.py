"""Where taskcore is slower: found by comparing, so that it cannot be forgotten."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.compare.run import RAW, US, Ratio, Run
from taskcore.testing.bench import Figure

__all__ = ["AIMS", "Aim", "Loss", "aims", "losses"]

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
    factor: Ratio


class Aim(NamedTuple):
    """Our share of what the client library alone reaches, and the share that we want."""

    ours: Figure
    raw: Figure
    share: Ratio
    wanted: float


def losses(run: Run) -> list[Loss]:
    """Every figure in which a peer is better by more than noise, the greatest loss first."""
    found = []
    for theirs in run.figures:
        if theirs.who in (US, RAW) or not theirs.better or theirs.lost:
            continue
        ours = run.find(theirs.broker, US, theirs.scenario, theirs.name)
        factor = run.ratio(theirs, ours) if ours is not None else None
        if ours is not None and factor is not None and factor.middle > NOTICEABLE:
            found.append(Loss(ours, theirs, factor))
    return sorted(found, key=lambda loss: -loss.factor.middle)


def aims(run: Run) -> list[Aim]:
    """How far we are from the client library's own limit, against what we aim at."""
    found = []
    for broker, wanted in AIMS.items():
        for (scenario, name), share in wanted.items():
            ours, raw = run.find(broker, US, scenario, name), run.find(broker, RAW, scenario, name)
            ratio = run.ratio(ours, raw) if ours is not None and raw is not None else None
            if ours is not None and raw is not None and ratio is not None:
                found.append(Aim(ours, raw, ratio, share))
    return found
