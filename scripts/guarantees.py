"""Write what the code knows into docs/guarantees.md: the clauses with their checks, and the table of brokers.

    python scripts/guarantees.py

Run it after a change of the suite or of an adapter's Features; a test compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from taskcore.backend import Features
from taskcore.backends.memory import FEATURES as MEMORY
from taskcore.backends.nats.backend import FEATURES as NATS
from taskcore.backends.rabbitmq.backend import CLASSIC, QUORUM
from taskcore.backends.redis.backend import FEATURES as REDIS
from taskcore.conformance import CLAUSES, NOT_PROMISED, all_checks
from taskcore.toolkit.failpoints import FAILPOINTS

PAGE = Path(__file__).parents[1] / "docs" / "guarantees.md"
PART = re.compile(r"(<!-- (?P<part>[a-z]+) -->\n).*?(<!-- end of (?P=part) -->)", re.DOTALL)
BROKERS = (MEMORY, REDIS, NATS, QUORUM, CLASSIC)
SIGNS = {"native": "●", "emulated": "○", "absent": "–", True: "●", False: "–"}


def clauses() -> Iterator[str]:
    """Each clause, what it means, and the checks that prove it."""
    for number, clause in CLAUSES.items():
        yield f"### {number} {clause.name}\n\n{clause.means}\n"
        if number in NOT_PROMISED:
            yield "A promise not to promise: there is nothing to check.\n"
            continue
        for check in all_checks():
            if number in check.clauses:
                needs = [name.replace("_", " ") for name in check.needs] + ["a store"] * check.store
                yield f"- `{check.name}`: {check.doc}" + (f" *Needs {', '.join(needs)}.*" if needs else "")
        yield ""


def brokers() -> Iterator[str]:
    """What each broker can do, from its Features."""
    meanings = _meanings()
    yield f"| | {' | '.join(features.broker for features in BROKERS)} | clauses |"
    yield "|---" * (len(BROKERS) + 2) + "|"
    for field in Features.__struct_fields__:
        if field == "broker":
            continue
        rested = sorted({one for check in all_checks() if field in check.needs for one in check.clauses}, key=_number)
        cells = [_cell(field, getattr(features, field)) for features in BROKERS]
        yield f"| {meanings[field]} | {' | '.join(cells)} | {', '.join(rested)} |"


def points() -> Iterator[str]:
    """The crash points of the core, in the order of a job's life."""
    yield ", ".join(f"`{point}`" for point in FAILPOINTS)


def page() -> str:
    """The page as it should be."""
    parts = {"clauses": clauses, "brokers": brokers, "points": points}
    return PART.sub(lambda found: "\n".join([found[1].rstrip(), *parts[found["part"]](), found[3]]), PAGE.read_text())


def _meanings() -> dict[str, str]:
    """A few words for each field; a new field needs some."""
    return {
        "durability": "an answered job survives",
        "survives_worker": "the death of a worker",
        "survives_broker": "the death of the broker",
        "delay": "handing out later",
        "delay_error": "δ: how early or late that may be",
        "dedup": "an id that is published again is noticed",
        "dedup_window": "… for how long after the job's end",
        "fencing": "a lost lease has no effect",
        "redeliveries": "leases that ran out are counted, and fences grow without a key",
        "remove": "a waiting job can be taken back",
        "locate": "a job can be found by its id",
        "dead_letters": "dead letters can be read, replayed, dropped",
        "atomic_retry": "retry copy and end of the old one in one step",
        "counts": "every job is counted, wherever it is",
        "pushes": "a job that nobody was given may count as handed out",
        "new_queue": "the first job of a new queue waits for",
    }


def _cell(field: str, value: str | float | bool) -> str:
    if isinstance(value, float):
        return f"{value:g} s"
    return str(value) if field == "durability" else SIGNS[value]


def _number(clause: str) -> int:
    return int(clause[1:])


if __name__ == "__main__":
    PAGE.write_text(page())
