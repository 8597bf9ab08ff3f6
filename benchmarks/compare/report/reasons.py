"""Why an aim was missed, as far as the figures of the same run tell; nothing is said that they contradict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.compare.run import RAW, US, Run
from taskcore.bench import Figure, show

__all__ = ["why_not"]

NOISE = 1.1  #: a process that does a tenth more than a bound allows was not bound by it
MIN_JOBS_FOR_P99 = 1_000  #: jobs: with fewer, single ones make the p99
LATE_SENDER_SHARE = 0.25  #: a share of a latency from which on the sender's own delay is worth a word


class Spent(NamedTuple):
    """µs of CPU a job: of our process, and of the broker's, 0 if it is unknown."""

    own: float
    broker: float

    @property
    def both(self) -> float:
        """Together."""
        return self.own + self.broker


def why_not(run: Run, ours: Figure, than: Figure | None, needed: float) -> list[str]:
    """Return what the run shows about a missed aim, in clauses.

    :param than: what the aim is a multiple of.
    :param needed: the value that would have been enough.
    """
    if ours.scenario == "latency":
        return list(_latency(run, ours, needed))
    if ours.unit != "jobs/s":
        return []
    spent, theirs = _spent(run, ours), _spent(run, than) if than is not None and than.who == RAW else None
    if spent is None:
        return []
    if ours.name == "one awaited" and than is not None:
        return [_call(ours, spent), *([_call(than, theirs, "the raw client's")] if theirs is not None else [])]
    return _bounds(run, ours, spent, needed)


def _spent(run: Run, figure: Figure) -> Spent | None:
    """Read it from the figure's facts; for the drain from the costs that were measured with it."""
    if "cpu" in figure.facts:
        return Spent(figure.facts["cpu"], figure.facts.get("broker_cpu", 0.0))
    own = run.find(figure.broker, figure.who, "cost", "worker CPU")
    if own is None or (figure.scenario, figure.name) != ("drain", "1 process"):
        return None
    broker = run.find(figure.broker, figure.who, "cost", "broker CPU")
    return Spent(own.median, broker.median if broker is not None else 0.0)


def _bounds(run: Run, ours: Figure, spent: Spent, needed: float) -> list[str]:
    """Tell whether one core is too few for our process, or all cores for both; if not, how much was in use."""
    who, cores = "worker" if ours.scenario == "drain" else "sender", run.machine.cores
    together = f"{who} and server together use" if spent.broker else f"the {who} uses"
    if not spent.both:
        return []
    bounds = (
        (f"the {who} uses {show(spent.own)} µs of CPU a job: one core allows about", 1e6 / max(spent.own, 1e-9)),
        (f"{together} {show(spent.both)} µs of CPU a job: {cores} cores allow about", cores * 1e6 / spent.both),
    )
    for text, allowed in bounds:
        if ours.median <= min(allowed * NOISE, needed) and allowed < needed:
            return [f"{text} {show(allowed)}/s, the aim needs {show(needed)}/s"]
    used = ours.median * spent.both / 1e6
    if used > cores:
        return []
    had = f"{together} {show(spent.both)} µs of CPU a job, which was {show(used)} of {cores} cores"
    return [f"{had}; the rest was idle, or used by other programs"]


def _call(figure: Figure, spent: Spent, whose: str = "a call") -> str:
    """Tell how long one awaited call takes, and what it computes; a server may compute on several cores meanwhile."""
    server = f" and {show(spent.broker)} in the server" if spent.broker else ""
    return f"{whose} takes {show(1e6 / figure.median)} µs, with {show(spent.own)} of CPU in the sender{server}"


def _latency(run: Run, ours: Figure, needed: float) -> Iterator[str]:
    """Yield what other rates, other contestants and the sender show."""
    rate, _, percent = ours.name.partition(", ")
    rates = [one for one in run.ours("latency") if one.broker == ours.broker and one.name.endswith(f", {percent}")]
    rivals = [one for one in run.race(ours.broker, "latency", ours.name) if one.who not in (US, RAW)]
    reached = bool(rivals) and rivals[0].median <= needed
    best = min(rates, key=lambda one: one.median)
    if best.median < ours.median / NOISE:  # every other rate is higher
        asleep = ", with less time to fall asleep between two jobs," if percent == "p50" and not reached else ""
        yield f"at {best.name.partition(', ')[0]}{asleep} it is {show(best.median)} ms"
    if rivals:
        verb = "reaches it" if reached else "does not reach it either"
        yield f"{rivals[0].who}, the best of the others, {verb}, with {show(rivals[0].median)} ms"
    first = run.find(ours.broker, US, "latency", f"{rate}, p50")  # has what all of them have in common
    if percent == "p99" and first is not None:
        if 0 < (jobs := first.facts.get("measured", 0)) < MIN_JOBS_FOR_P99:
            yield f"{jobs // 100 + 1} of the {jobs} jobs of a round decide it"
        if (late := first.facts.get("sender_late_p99_ms", 0.0)) > ours.median * LATE_SENDER_SHARE:
            yield f"the sender itself was up to {show(late)} ms late (p99), which counts"
