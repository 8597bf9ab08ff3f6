"""A finished run: its records, and how to ask them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from taskcore.testing.bench import Contestant, Figure, Machine, Record, Skipped, decode_lines

__all__ = ["RAW", "US", "Run"]

US, RAW = "taskcore", "raw client"
TITLES = {
    "memory": "In memory",
    "redis": "Redis",
    "nats": "NATS JetStream",
    "rabbitmq": "RabbitMQ",
    "postgresql": "PostgreSQL",
}


class Run:
    """All records of one run."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = list(records)
        self.figures = [record for record in records if isinstance(record, Figure)]
        self.skipped = [record for record in records if isinstance(record, Skipped)]
        self.contestants = [record for record in records if isinstance(record, Contestant)]
        self.machine = [record for record in records if isinstance(record, Machine)][-1]  # the last knows the servers
        self.brokers = list(dict.fromkeys(figure.broker for figure in self.figures))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The run that a file of JSON lines holds."""
        return cls(list(decode_lines(path.read_text().splitlines())))

    def find(self, broker: str, who: str, scenario: str, name: str) -> Figure | None:
        """One figure."""
        for figure in self.figures:
            if (figure.broker, figure.who, figure.scenario, figure.name) == (broker, who, scenario, name):
                return figure
        return None

    def race(self, broker: str, scenario: str, name: str) -> list[Figure]:
        """Everybody's figure of one kind on one broker, the best first."""
        found = [
            figure
            for figure in self.figures
            if (figure.broker, figure.scenario, figure.name) == (broker, scenario, name)
        ]
        return sorted(found, key=lambda figure: figure.median, reverse=bool(found) and found[0].better == "more")

    def ours(self, scenario: str) -> list[Figure]:
        """What taskcore came to in one scenario, on all brokers."""
        return [figure for figure in self.figures if figure.who == US and figure.scenario == scenario]

    def command(self, scenario: str) -> str:
        """What measures this part again."""
        quick = " --quick" if "--quick" in self.machine.command else ""
        return f'python -m benchmarks.compare --only "{scenario}"{quick}'

    @staticmethod
    def title(broker: str) -> str:
        """A broker's name, as it writes itself."""
        return TITLES.get(broker, broker)
