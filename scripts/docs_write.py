"""Write what the code knows into the documentation, so that no page can say something else.

    scripts/docs-write        docs/guarantees.md: the clauses with their checks, the table of brokers, the crash points
                              docs/lifecycle.md: the tables at the top of lifecycle.py
                              docs/guides/schedules.md: the tables at the top of schedules/decide.py

Run it after a change of the suite, of an adapter's Features or of the table; tests compare.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from taskcore.backend import Features
from taskcore.backends.memory import FEATURES as MEMORY
from taskcore.backends.nats.backend import FEATURES as NATS
from taskcore.backends.rabbitmq.backend import CLASSIC, QUORUM
from taskcore.backends.redis.backend import FEATURES as REDIS
from taskcore.backends.sql.postgres.backend import FEATURES as POSTGRES
from taskcore.backends.sql.sqlite.backend import FEATURES as SQLITE
from taskcore.conformance import CLAUSES, NOT_PROMISED, all_checks
from taskcore.toolkit.failpoints import FAILPOINTS

ROOT = Path(__file__).resolve().parents[1]
GUARANTEES = ROOT / "docs" / "guarantees.md"
PARTS_OF_GUARANTEES = re.compile(r"(<!-- (?P<part>[a-z]+) -->\n).*?(<!-- end of (?P=part) -->)", re.DOTALL)
BROKERS = (MEMORY, SQLITE, POSTGRES, REDIS, NATS, QUORUM, CLASSIC)
SIGNS = {"native": "●", "emulated": "○", "absent": "–", True: "●", False: "–"}


def clauses() -> Iterator[str]:
    """Yield each clause, what it means, and the checks that prove it."""
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
    """Yield the table of what each broker can do, from its Features."""
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
    """Yield the crash points of the core, in the order of a job's life."""
    yield ", ".join(f"`{point}`" for point in FAILPOINTS)


def guarantees_page() -> str:
    """Return the page as it should be."""
    parts = {"clauses": clauses, "brokers": brokers, "points": points}
    return PARTS_OF_GUARANTEES.sub(
        lambda found: "\n".join([found[1].rstrip(), *parts[found["part"]](), found[3]]), GUARANTEES.read_text()
    )


def _meanings() -> dict[str, str]:
    """Return a few words for each field; a new field needs some."""
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
        "peek": "waiting jobs can be looked at",
        "pushes": "a job that no worker received may count as handed out",
        "new_queue": "the first job of a new queue waits for",
    }


def _cell(field: str, value: str | float | bool) -> str:
    if isinstance(value, float):
        return f"{value:g} s"
    return str(value) if field == "durability" else SIGNS[value]


def _number(clause: str) -> int:
    return int(clause[1:])


# ── the lifecycle ────────────────────────────────────────────────────────────────────────────────

LIFECYCLE = ROOT / "docs" / "lifecycle.md"
SCHEDULES = ROOT / "docs" / "guides" / "schedules.md"
TABLES_OF_LIFECYCLE = re.compile(r"(<!-- (?P<part>table|leaves) -->\n).*?(<!-- end of (?P=part) -->)", re.DOTALL)
TABLES_OF_SCHEDULES = re.compile(
    r"(<!-- (?P<part>missed|overlap|state) -->\n).*?(<!-- end of (?P=part) -->)", re.DOTALL
)


def tables(module: str, *names: str) -> dict[str, str]:
    """Return the tables of a module's docstring as Markdown, under these names."""
    text = ast.get_docstring(ast.parse((ROOT / "src/taskcore" / module).read_text())) or ""
    blocks = re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)
    return dict(zip(names, (_markdown(block.splitlines()) for block in blocks), strict=True))


def _markdown(lines: list[str]) -> str:
    """Return a table of the docstring as Markdown; its columns begin where its ruler says."""
    ruler = next(index for index, line in enumerate(lines) if set(line.strip()) <= {"─", " "})
    starts = [found.start() for found in re.finditer("─+", lines[ruler])]
    rows: list[list[str]] = []
    for line in lines[:ruler] + lines[ruler + 1 :]:
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if not cells[0] and rows and cells[-1] and rows[-1][-1].endswith(";"):  # a verdict that needs two lines
            rows[-1][-1] += f" {cells[-1]}"
            rows[-1][1] += f" {cells[1]}".rstrip()
        else:
            rows.append([cells[0] or rows[-1][0], *cells[1:]])
    rows.insert(1, ["---"] * len(starts))
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def lifecycle_page() -> str:
    """Return the page as it should be."""
    written = tables("lifecycle.py", "table", "leaves")
    return TABLES_OF_LIFECYCLE.sub(
        lambda found: f"{found[1]}{written[found['part']]}\n{found[3]}", LIFECYCLE.read_text()
    )


def schedules_page() -> str:
    """Return the page as it should be."""
    written = tables("schedules/decide.py", "missed", "overlap", "state")
    return TABLES_OF_SCHEDULES.sub(
        lambda found: f"{found[1]}{written[found['part']]}\n{found[3]}".replace("``", "`"), SCHEDULES.read_text()
    )


# ── all ─────────────────────────────────────────────────────────────────────────────────────────


if __name__ == "__main__":
    GUARANTEES.write_text(guarantees_page())
    LIFECYCLE.write_text(lifecycle_page())
    SCHEDULES.write_text(schedules_page())
