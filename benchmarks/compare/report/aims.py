"""What taskcore aims at, against what a run has measured: whether it holds, or by how much not, and why not."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.compare.report.reasons import why_not
from benchmarks.compare.report.wording import factor, percents, range_of, times
from benchmarks.compare.run import RAW, US, Ratio, Run, ratio_of
from taskcore.bench import Figure, show

__all__ = ["AIMED", "AIMS", "Aim", "Judged", "aim_rows", "judge", "unmeasured"]

AIMED = (
    "Shares of the client library's own speed, without any of taskcore's features; multiples of the fastest other "
    "library that lost no job; and figures for two quiet cores. All are medians of the rounds, or of the rounds' own "
    "ratios, with the minimum and the maximum. On RabbitMQ deliveries bypass the client library, so draining can be "
    "faster than the library."
)

RIVAL, PYTHON = "the fastest rival", "the fastest Python rival"
DRAIN = ("drain", "1 process")
CPU, P50, P99 = ("cost", "worker CPU"), ("latency", "50/s, p50"), ("latency", "50/s, p99")
HERE = "the queue lives in the worker's process here, so its work is part of the figure"
ONE_BY_ONE = "JetStream wants an acknowledgement of its own for each job"


class Aim(NamedTuple):
    """One aim.

    :param figure: scenario and name of ours.
    :param wanted: at least, or at most where less is better; with ``of`` as a multiple of that figure.
    :param of: the raw client, the fastest rival, or one of our own figures of the same scenario.
    :param otherwise: why it was missed, where the run's own figures do not tell.
    """

    figure: tuple[str, str]
    wanted: float
    of: str = ""
    otherwise: str = ""

    @property
    def against(self) -> str:
        """What it is compared with, in words."""
        if self.of in (RIVAL, PYTHON):
            return self.of
        return f"the {RAW}" if self.of == RAW else f"{self.figure[0]}: {self.of}"


AIMS: dict[str, tuple[Aim, ...]] = {
    "memory": (
        Aim(DRAIN, 100_000),
        Aim(("enqueue", "packing alone"), 5),
        Aim(P50, 0.2),
        Aim(P99, 1),
        Aim(CPU, 8, otherwise=HERE),
    ),
    "redis": (
        Aim(("enqueue", "bulk"), 0.5, RAW),
        Aim(("enqueue", "100 at once"), 40_000),
        Aim(("enqueue", "one awaited"), 0.75, RAW),
        Aim(DRAIN, 0.5, RAW),
        Aim(DRAIN, 6, RIVAL),
        Aim(("drain", "with results"), 25_000),
        Aim(("drain", "with results"), 0.5, "1 process"),
        Aim(P50, 1),
        Aim(P99, 3),
        Aim(("idle", "requests to the broker"), 5),
        Aim(("idle", "worker CPU"), 0.5),
        Aim(CPU, 15),
    ),
    "nats": (
        Aim(("enqueue", "bulk"), 0.5, RAW),
        Aim(("enqueue", "one awaited"), 0.75, RAW),
        Aim(DRAIN, 0.5, RAW),
        Aim(DRAIN, 6, PYTHON),
        Aim(P50, 1),
        Aim(P99, 3),
        Aim(CPU, 20, otherwise=ONE_BY_ONE),
    ),
    "rabbitmq": (
        Aim(("enqueue", "bulk"), 0.6, RAW),
        Aim(("enqueue", "one awaited"), 0.8, RAW),
        Aim(DRAIN, 0.6, RAW),
        Aim(DRAIN, 3, PYTHON),
        Aim(P50, 1.6),
        Aim(P99, 4),
        Aim(CPU, 60),
    ),
}  # fmt: skip


class Judged(NamedTuple):
    """An aim, and what came of it.

    :param than: what it is a multiple of; None: nothing.
    :param measured: values of the rounds, or the rounds' own ratios; ``better`` is in how many of them it held.
    """

    aim: Aim
    ours: Figure
    than: Figure | None
    measured: Ratio

    @property
    def at_most(self) -> bool:
        """Whether less is better."""
        return self.than is None and self.ours.better == "less"

    @property
    def holds(self) -> bool:
        """Whether the aim is reached: the median decides, and a contestant that loses jobs reaches nothing."""
        median, wanted = self.measured.middle, self.aim.wanted
        return not self.ours.lost and (median <= wanted if self.at_most else median >= wanted)


def judge(run: Run) -> list[Judged]:
    """Judge all aims that this run has figures for."""
    return [judged for broker in run.brokers for aim in AIMS.get(broker, ()) if (judged := _judged(run, broker, aim))]


def unmeasured(run: Run) -> list[str]:
    """Return the aims on this run's brokers that the run has no figures for."""
    reported = {(judged.ours.broker, judged.aim) for judged in judge(run)}
    return [
        f"{run.title(broker)}, {': '.join(aim.figure)}{f' against {aim.against}' if aim.of else ''}"
        for broker in run.brokers
        for aim in AIMS.get(broker, ())
        if (broker, aim) not in reported
    ]


def aim_rows(run: Run) -> list[list[str]]:
    """Return the rows of the table: broker, aim, measured, whether it holds, why not."""
    return [
        [run.title(one.ours.broker), _wanted(one), _measured(one), _verdict(one), _why(run, one)] for one in judge(run)
    ]


def _judged(run: Run, broker: str, aim: Aim) -> Judged | None:
    ours = run.find(broker, US, *aim.figure)
    if ours is None:
        return None
    if not aim.of:
        held = sum(value <= aim.wanted if ours.better == "less" else value >= aim.wanted for value in ours.values)
        return Judged(aim, ours, None, ratio_of(ours.values)._replace(better=held))
    than = _than(run, ours, aim.of)
    ratios = run.ratios(ours, than) if than is not None else []
    if not ratios:
        return None
    held = sum(ratio >= aim.wanted for ratio in ratios)
    return Judged(aim, ours, than, ratio_of(ratios)._replace(better=held))


def _than(run: Run, ours: Figure, of: str) -> Figure | None:
    """Return what our figure is compared with: of the rivals that lost nothing the closest one, round by round."""
    if of == RAW:
        return run.find(ours.broker, RAW, ours.scenario, ours.name)
    if of not in (RIVAL, PYTHON):
        return run.find(ours.broker, US, ours.scenario, of)
    rivals = [
        (ratio.middle, one)
        for one in run.race(ours.broker, ours.scenario, ours.name)
        if one.who not in (US, RAW) and not one.lost and not (of == PYTHON and one.who.endswith("(Node)"))
        if (ratio := run.ratio(ours, one))
    ]
    return min(rivals, key=lambda rival: rival[0])[1] if rivals else None


# ── in words ─────────────────────────────────────────────────────────────────────────────────────


def _wanted(one: Judged) -> str:
    aim, figure = one.aim, ": ".join(one.aim.figure)
    if not aim.of:
        return f"{figure} {'≤' if one.at_most else '≥'} {show(aim.wanted)} {one.ours.unit}"
    share = f"{aim.wanted:.0%} of" if aim.wanted < 1 else f"{aim.wanted:g} ×"
    return f"{figure} ≥ {share} {aim.against}"


def _measured(one: Judged) -> str:
    if one.than is None:
        return range_of(one.measured, show)
    if one.aim.wanted < 1:
        return percents(one.measured)
    return f"{factor(one.measured)} {one.than.who}"


def _verdict(one: Judged) -> str:
    held, of = one.measured.better, one.measured.rounds
    if one.holds:
        return "yes" if held == of else f"yes, in {held} of {of} rounds"
    if one.ours.lost:
        return f"no: {one.ours.lost} jobs lost"
    median, wanted = one.measured.middle, one.aim.wanted
    missed = f"{times(median / wanted)} × as much" if one.at_most else f"{1 - median / wanted:.1%} too little"
    return f"no: {missed}{f'; in {held} of {of} rounds it did' if held else ''}"


def _why(run: Run, one: Judged) -> str:
    if one.holds or one.ours.lost:
        return ""
    needed = one.aim.wanted * (one.than.median if one.than is not None else 1.0)
    found = why_not(run, one.ours, one.than, needed) or [one.aim.otherwise]
    if run.busy and one.than is None:
        found.append(f"the machine was busy (load {run.machine.load[0]:g})")
    return "; ".join(filter(None, found)) or "the run's figures do not tell"
