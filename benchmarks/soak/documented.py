"""The documented runs: each broker with its store, side by side; reports in a folder, a table for the guide.

python -m benchmarks.soak.documented --minutes 30 --reports soaks
python -m benchmarks.soak.documented --minutes 30 --reports soaks --lease default
python -m benchmarks.soak.documented --reports soaks --table-only --docs     # of reports that are there
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["RUNS", "main", "table"]

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "soaking.md"
BEGIN, END = "<!-- soaks -->\n", "<!-- end of soaks -->"
RUNS: Mapping[str, Sequence[str]] = {
    "redis": ("redis",),
    "nats": ("nats",),
    "rabbitmq-sqlite": ("rabbitmq", "--store", "sqlite"),
    "rabbitmq-postgresql": ("rabbitmq", "--store", "postgresql"),
}
HEAD = (
    "| broker and store, command | faults | jobs | starts | doubles, unexplained | rules broken | memory | descriptors "
    "| tasks | consumers | quiet after | verdict |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|\n"
)
VETERAN = "worker-veteran"


def main(arguments: list[str] | None = None) -> int:
    """Run all; return 0 if all of them are clean."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.soak.documented",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", default="30", help="for how long there are faults (default: 30)")
    parser.add_argument("--lease", default="4", help='seconds, or "default" (default: 4)')
    parser.add_argument("--reports", type=Path, required=True, help="a folder; it may have the reports of earlier runs")
    parser.add_argument("--only", choices=RUNS, action="append", help="this run, and no other; may be repeated")
    parser.add_argument("--table-only", action="store_true", help="start nothing")
    parser.add_argument("--docs", action="store_true", help=f"put the table into {GUIDE.relative_to(ROOT)}")
    told = parser.parse_args(arguments)
    told.reports.mkdir(parents=True, exist_ok=True)
    if not told.table_only:
        _run_all(told.only or list(RUNS), told.minutes, told.lease, told.reports)
    found = list(_reports(told.reports))
    text = table(found)
    print(text, end="")
    if told.docs:
        before, _, rest = GUIDE.read_text().partition(BEGIN)
        GUIDE.write_text(f"{before}{BEGIN}{text}{END}{rest.partition(END)[2]}")
    return 0 if found and all(report["clean"] for report in found) else 1


def _run_all(names: Sequence[str], minutes: str, lease: str, reports: Path) -> None:
    """Run these side by side; a run that is broken by itself leaves its log and no report."""
    running = []
    for name in names:
        place = reports / f"{name}-{lease}"
        command = ["-m", "benchmarks.soak", *RUNS[name], "--minutes", minutes, "--lease", lease]
        place.with_suffix(".json").unlink(missing_ok=True)
        with place.with_suffix(".out").open("w") as out, place.with_suffix(".log").open("w") as log:
            process = subprocess.Popen([sys.executable, *command, "--json"], cwd=ROOT, stdout=out, stderr=log)
        running.append((place, ["python", *command], process))
    for place, command, process in running:
        process.wait()
        told = place.with_suffix(".out").read_text()
        if told.startswith("{"):
            report = json.loads(told) | {"command": " ".join(command)}
            place.with_suffix(".json").write_text(json.dumps(report, indent=2))
            place.with_suffix(".out").unlink()
        else:
            print(f"{place.name}: no report; see {place.with_suffix('.log')}", file=sys.stderr)


def _reports(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")):
        yield json.loads(path.read_text())


def table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Write the table of these reports in Markdown."""
    return HEAD + "".join(_row(report) for report in reports)


def _row(report: Mapping[str, Any]) -> str:
    kinds = report["kinds"].values()
    sizes = report["sizes"]
    doubles = sum(report["doubles"].values())
    broken = {rule: number for rule, number in report["verdict"].items() if number}
    cells = [
        f"{report['title']}, seed {report['seed']}<br>`{report['command']}`",
        f"{sum(report['faults'].values()):,}",
        f"{sum(kind['confirmed'] for kind in kinds):,}",
        f"{sum(kind['starts'] for kind in kinds):,}",
        f"{doubles:,}, {report['verdict']['unexplained']}",
        f"{len(broken)} of {len(report['verdict'])}",
        _ends(sizes.get(VETERAN, {}).get("memory"), 1e6, " MB"),
        _ends(sizes.get(VETERAN, {}).get("descriptors")),
        _ends(sizes.get(VETERAN, {}).get("tasks")),
        _ends(sizes.get("broker", {}).get("consumers")),
        f"{report['quiet_after']:.1f} s",
        ", ".join(f"{rule} {number}" for rule, number in broken.items()) or "clean",
    ]
    return f"| {' | '.join(cells)} |\n"


def _ends(ends: Sequence[float] | None, unit: float = 1, name: str = "") -> str:
    return "–" if ends is None else f"{ends[0] / unit:,.0f} → {ends[1] / unit:,.0f}{name}"


if __name__ == "__main__":
    sys.exit(main())
