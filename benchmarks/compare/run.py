"""A finished run: its records, and how to ask them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import msgspec

from taskcore.bench import BenchRecord, Contestant, Figure, MachineInfo, Skipped, decode_lines

__all__ = ["RAW", "US", "Ratio", "Run", "public", "ratio_of"]

US, RAW = "taskcore", "raw client"
TITLES = {
    "memory": "In memory",
    "redis": "Redis",
    "nats": "NATS JetStream",
    "rabbitmq": "RabbitMQ",
    "postgresql": "PostgreSQL",
}
COUNTS = ("jobs", "sent", "lost", "duplicated", "restarted", "unknown", "in_hand", "early", "repeats")
MEDIANS = ("cpu", "broker_cpu", "sender_late_p99_ms")
BUSY = 0.5  #: a load at the start above which a figure is not to be quoted


class Ratio(NamedTuple):
    """How many times better one is than another: the median of the rounds, the least, the most.

    :param better: in how many rounds it was better at all.
    """

    middle: float
    low: float
    high: float
    better: int
    rounds: int


class Run:
    """All records of one run. Figures of several rounds are one figure here, with a value for each round."""

    def __init__(self, records: Sequence[BenchRecord]) -> None:
        figures = [record for record in records if isinstance(record, Figure)]
        self.figures = _merged(figures)
        self.skipped = list(dict.fromkeys(record for record in records if isinstance(record, Skipped)))
        self.contestants = [record for record in records if isinstance(record, Contestant)]
        machine = [record for record in records if isinstance(record, MachineInfo)][-1]  # the last knows the servers
        self.whole = machine.seconds > 0  #: whether it came to its end
        seconds = machine.seconds or max((figure.at for figure in figures), default=0.0)
        self.machine = msgspec.structs.replace(machine, seconds=seconds, command=public(machine.command))
        self.brokers = list(dict.fromkeys(figure.broker for figure in self.figures))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the run that a file of JSON lines holds."""
        return cls(list(decode_lines(path.read_text().splitlines())))

    @property
    def busy(self) -> bool:
        """Whether the machine did something else when it began."""
        return bool(self.machine.load) and self.machine.load[0] > BUSY

    @property
    def lasted(self) -> str:
        """How long it took, in words."""
        minutes = f"{max(self.machine.seconds / 60, 1):.0f} minutes" if self.machine.seconds else ""
        return minutes if self.whole else f"{minutes + ', ' if minutes else ''}stopped before its end"

    def find(self, broker: str, who: str, scenario: str, name: str) -> Figure | None:
        """Find one figure."""
        for figure in self.figures:
            if (figure.broker, figure.who, figure.scenario, figure.name) == (broker, who, scenario, name):
                return figure
        return None

    def race(self, broker: str, scenario: str, name: str) -> list[Figure]:
        """Return all figures of one kind on one broker, the best first."""
        found = [
            figure
            for figure in self.figures
            if (figure.broker, figure.scenario, figure.name) == (broker, scenario, name)
        ]
        return sorted(found, key=lambda figure: figure.median, reverse=bool(found) and found[0].better == "more")

    def ours(self, scenario: str) -> list[Figure]:
        """Return what taskcore came to in one scenario, on all brokers."""
        return [figure for figure in self.figures if figure.who == US and figure.scenario == scenario]

    def rounds(self) -> list[tuple[str, dict[str, str]]]:
        """Map scenario → broker → how many rounds it had, as a text, because not all contestants may have as many."""
        found: dict[str, dict[str, set[int]]] = {}
        for figure in self.figures:
            found.setdefault(figure.scenario, {}).setdefault(figure.broker, set()).add(len(figure.values))
        return [
            (scenario, {broker: "–".join(map(str, sorted({min(seen), max(seen)}))) for broker, seen in brokers.items()})
            for scenario, brokers in found.items()
            if scenario != "cost"  # is measured with the drain
        ]

    def failed(self, scenario: str) -> list[Skipped]:
        """Return the contestants that did not get through a scenario, which is a finding and no omission."""
        return [one for one in self.skipped if one.scenario == scenario and "failed" in one.why]

    def command(self, scenario: str) -> str:
        """Return the command that measures this part again."""
        quick = " --quick" if "--quick" in self.machine.command else ""
        return f'python -m benchmarks.compare --only "{scenario}"{quick}'

    @staticmethod
    def title(broker: str) -> str:
        """Return a broker's name, as it writes itself."""
        return TITLES.get(broker, broker)

    @staticmethod
    def ratio(better: Figure, worse: Figure) -> Ratio | None:
        """Compute how many times better the first is, from the same rounds of both; None: one of them is zero."""
        found = Run.ratios(better, worse)
        return ratio_of(found) if found else None

    @staticmethod
    def ratios(better: Figure, worse: Figure) -> list[float]:
        """Return the same, round by round; nothing if one of them would be divided by zero."""
        mine, yours = (dict(zip(_rounds_of(one), one.values, strict=True)) for one in (better, worse))
        pairs = [(mine[number], yours[number]) for number in mine if number in yours]
        pairs = pairs or [(better.median, worse.median)]
        if better.better == "less":
            pairs = [(second, first) for first, second in pairs]
        return [first / second for first, second in pairs] if all(second for _, second in pairs) else []


def ratio_of(values: Sequence[float]) -> Ratio:
    """Return the median, the least and the greatest of the rounds' own ratios."""
    return Ratio(statistics.median(values), min(values), max(values), sum(value > 1 for value in values), len(values))


def public(command: str) -> str:
    """Return the command without what concerns this machine only: where the result goes."""
    return re.sub(r"\s--out(=|\s+)('[^']*'|\S+)", "", command)


def _merged(figures: Sequence[Figure]) -> list[Figure]:
    """Make one figure for all rounds of the same thing: all values, counts added up, curves by their median."""
    found: dict[tuple[str, ...], list[Figure]] = {}
    for figure in figures:
        key = (figure.broker, figure.who, figure.scenario, figure.name, figure.unit)
        found.setdefault(key, []).append(figure)
    return [_one(each) for each in found.values()]


def _one(rounds: Sequence[Figure]) -> Figure:
    first = rounds[0]
    if len(rounds) == 1:
        return first
    facts: dict[str, Any] = dict(first.facts)
    facts |= {key: sum(int(each.facts.get(key, 0)) for each in rounds) for key in COUNTS if key in facts}
    for key in MEDIANS:
        if key in facts:
            facts[key] = statistics.median(each.facts[key] for each in rounds if key in each.facts)
    curves = [each.facts["curve"] for each in rounds if "curve" in each.facts]
    if curves:  # each percentile is the median of the rounds'
        facts["curve"] = [statistics.median(values) for values in zip(*curves, strict=False)]
    facts["rounds"] = [each.round for each in rounds for _ in each.values]
    return msgspec.structs.replace(first, values=tuple(value for each in rounds for value in each.values), facts=facts)


def _rounds_of(figure: Figure) -> list[int]:
    return list(figure.facts.get("rounds", range(len(figure.values)) if len(figure.values) > 1 else [figure.round]))
