"""The report of a run: complete, well-formed, without the internet, and honest about where others are better."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.compare.report import write_report
from benchmarks.compare.report.slower import Loss, loss_rows, losses
from benchmarks.compare.report.svg import Bar, Line, Range, bars, lines, ranges, timeline
from benchmarks.compare.report.wording import factor, spread, took
from benchmarks.compare.run import RAW, US, Ratio, Run, public
from taskcore.bench import BenchRecord, Contestant, Figure, MachineInfo, Skipped, encode_line

MACHINE = MachineInfo(
    when="2026-05-04T03:02:01+00:00", command="python -m benchmarks.compare", cpu="Abacus <9>", cores=2, memory=4 << 30,
    system="Linux", python="CPython 3.11.7", loop="asyncio", taskcore="0.1.0", commit="abc1234", load=(0.1, 0.1, 0.1),
    versions={"redis-server": "7.0.15"}, seconds=600.0,
)  # fmt: skip


def records() -> list[BenchRecord]:
    """Make a run on two brokers with two peers, of which one is better in one figure and one loses jobs."""
    made: list[BenchRecord] = [
        MACHINE,
        Contestant(who=US, version="0.1.0", settings="defaults"),
        Contestant(who="Quick & Co", version="9", settings="as <documented>", source="https://example.org/docs"),
    ]

    def add(broker, who, scenario, name, unit, values, better="more", **facts):
        figure = Figure(
            broker=broker, who=who, scenario=scenario, name=name, unit=unit, values=values, better=better, facts=facts
        )
        made.append(figure)

    for broker in ("redis", "nats"):
        for who, times in ((RAW, 3.0), (US, 1.0), ("Quick & Co", 0.1), ("Lossy", 2.0)):
            lost = 7 if who == "Lossy" else 0
            counts = {"lost": lost, "duplicated": 0, "jobs": 100}
            base = 50_000 * times
            add(broker, who, "drain", "1 process", "jobs/s", (base, base * 1.1, base * 0.9), **counts)
            add(broker, who, "enqueue", "one awaited", "jobs/s", (9_000 * times,))
            add(broker, who, "enqueue", "bulk", "jobs/s", (90_000 * times,))
            if who == RAW:
                continue
            add(broker, who, "cost", "worker CPU", "µs/job", (10 / times,), "less")
            add(broker, who, "cost", "broker CPU", "µs/job", (8 / times,), "less")
            faster = 0.5 if who == "Quick & Co" else 1.0
            for percent, value in ((50, 1.0), (95, 1.5), (99, 3.0)):
                curve = {"curve": [0.5 + one / 50 for one in range(101)], "measured": 2_000} if percent == 50 else {}
                add(broker, who, "latency", f"50/s, p{percent}", "ms", (value * faster,), "less", rate=50.0, **curve)
            add(broker, who, "results", "round trips, 100 at once", "jobs/s", (2_000 * times,))
            killed = {"sent": 100, "lost": lost, "duplicated": 1, "in_hand": 5, "waited": 20.0}
            shape = {"timeline": [5, 9, 0, 0, 12], "bin": 0.1, "from": -0.2} if who == US else {}
            add(broker, who, "worker killed", "all jobs have ended after", "s", (5.5,), "less", **killed, **shape)
        add(broker, US, "drain", "2 processes", "jobs/s", (80_000.0,), lost=0)
        add(broker, US, "idle", "worker CPU", "% of a core", (0.1,), "less")
    made.append(Skipped(broker="rabbitmq", who=US, scenario="all", why="amqp:// needs the rabbitmq extra"))
    return made


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Write a report from a file of JSON lines, as a run writes it."""
    (tmp_path / "raw.jsonl").write_bytes(b"\n".join(encode_line(record) for record in records()))
    write_report(Run.read(tmp_path / "raw.jsonl"), tmp_path, tmp_path / "benchmarks.md")
    return tmp_path


class Tags(HTMLParser):
    """Checks that tags are closed in order, and collects what would be loaded."""

    VOID = frozenset({"meta", "br", "circle", "rect", "line", "polyline", "polygon"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag, attrs):
        """Remember what is loaded and what is open."""
        self.loaded += [
            value for name, value in attrs if name in ("src", "srcset") or (tag == "link" and name == "href")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        """Leave no element open."""

    def handle_endtag(self, tag):
        """Close the innermost element."""
        assert self.open.pop() == tag

    def handle_data(self, data):
        """Collect the headings."""
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(written):
    """Tags match, nothing is loaded, there is no script, and each section is there."""
    text = (written / "report.html").read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.loaded == []
    assert "<script" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert tags.headings == [
        "Drain", "Killed", "Enqueue", "Latency", "Results", "More processes", "What it costs",
        "All of taskcore's figures, broker by broker", "What taskcore aims at", "Where taskcore is slower",
        "Settings of all candidates",
        "Rounds", "Not measured",
        "Repeat it",
    ]  # fmt: skip
    assert "Abacus &lt;9&gt;" in text
    assert "as &lt;documented&gt;" in text
    assert "amqp:// needs the rabbitmq extra" in text


def test_every_plot_is_well_formed(written):
    """Each is XML of its own, with numbers that are numbers."""
    plots = re.findall(r"<svg.*?</svg>", (written / "report.html").read_text(), re.DOTALL)
    assert len(plots) >= 14
    for plot in plots:
        ET.fromstring(plot)
        assert "nan" not in plot
        assert "inf" not in plot.replace("info", "")


def test_a_library_that_loses_jobs_is_reported_as_losing(written):
    """A fast lossy setting cannot look like a victory: its losses stand at its bar and in the table."""
    text = (written / "report.html").read_text()
    assert "7 lost" in text
    assert "<b class='loud'>7</b>" in text
    assert "not all: none for 20 s" in text
    assert "| **7** |" in (written / "benchmarks.md").read_text()


def test_every_better_figure_of_others_is_listed():
    """Every better figure is listed, the greatest first; a library that lost jobs does not count, nor does raw."""
    found = losses(Run(records()))
    assert found
    assert {loss.theirs.who for loss in found if loss.ours.scenario == "latency"} == {"Quick & Co"}
    assert not [loss for loss in found if loss.theirs.lost or loss.theirs.who == RAW]
    factors = [loss.factor.middle for loss in found]
    assert factors == sorted(factors, reverse=True)


def test_rounds_that_disagree_are_a_tie():
    """As is what is less than noise; a loss in every round is none."""

    def loss(*theirs: float) -> Loss:
        ours = [one_round(number, US, 100.0) for number in range(len(theirs))]
        other = [one_round(number, "Celery", value) for number, value in enumerate(theirs)]
        [found] = losses(Run([MACHINE, *ours, *other]))
        return found

    assert not loss(110.0, 120.0, 130.0).tie
    assert not loss(200.0).tie
    assert loss(99.0, 150.0, 150.0).tie
    assert loss(103.0, 104.0).tie


def test_each_loss_has_a_line():
    """The greatest in full, the figures of all others at its end; each arrival rate by itself."""
    run = Run([
        MACHINE,
        *(
            Figure(broker="redis", who=who, scenario="latency", name=name, unit="ms", values=(value,), better="less")
            for name in ("50/s, p50", "50/s, p99", "500/s, p50")
            for who, value in ((US, 6.0), ("arq", 2.0 if name == "50/s, p50" else 3.0), ("Huey", 4.0))
        ),
        one_round(1, US, 1.0), one_round(1, "Huey", 2.0),
    ])  # fmt: skip
    assert loss_rows(run, losses(run)) == [
        ["Redis", "latency: 50/s, p50", "arq", "2 ms", "6 ms", "3.0 ×", "1 of 1",
         "arq: p99 (2.0 ×); Huey: p50, p99 (1.50 ×)"],
        ["Redis", "latency: 500/s, p50", "arq", "3 ms", "6 ms", "2.0 ×", "1 of 1", "Huey: p50 (1.50 ×)"],
        ["Redis", "drain: 1 process", "Huey", "2 jobs/s", "1 jobs/s", "2.0 ×", "1 of 1", ""],
    ]  # fmt: skip
    assert loss_rows(run, []) == []


def test_the_markdown_has_a_command_for_each_table(written):
    """No figure without the command that measures it; tables have as many cells as names."""
    text = (written / "benchmarks.md").read_text()
    assert text == (written / "REPORT.md").read_text()
    for scenario in ("drain", "enqueue", "results", "latency", "killed"):
        assert f'`python -m benchmarks.compare --only "{scenario}"`' in text
    assert "$ python -m benchmarks.compare\n" in text
    assert "## What taskcore aims at" in text
    assert "## Where taskcore is slower" in text
    for table in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({row.count("|") for row in table.splitlines()}) == 1, table
    fences = re.findall(r"^```(.*)$", text, re.MULTILINE)
    assert set(fences[::2]) == {"console"}
    assert not any(fences[1::2])


def test_a_busy_machine_is_said(tmp_path):
    """A report of a busy machine warns its reader."""
    busy = [record for record in records() if not isinstance(record, MachineInfo)]
    machine = MachineInfo(
        **{name: getattr(MACHINE, name) for name in MACHINE.__struct_fields__} | {"load": (3.0, 2.0, 1.0)}
    )
    write_report(Run([machine, *busy]), tmp_path, None)
    assert "do not quote these figures" in (tmp_path / "report.html").read_text()
    assert "do not quote these figures" in (tmp_path / "REPORT.md").read_text()


def test_a_small_run_renders_too(tmp_path):
    """A run with one broker and one figure renders."""
    small = [MACHINE, Figure(broker="memory", who=US, scenario="enqueue", name="bulk", unit="jobs/s", values=(1.0,))]
    write_report(Run(small), tmp_path, None)
    tags = Tags()
    tags.feed((tmp_path / "report.html").read_text())
    assert tags.headings[0] == "Enqueue"


@pytest.mark.parametrize(
    "plot",
    [
        bars([Bar("a & b", (0.0,), "us"), Bar("c", (1.0, 2.0, 3.0), "peer", "3 lost")], "jobs/s"),
        ranges([Range("a", 0.0, 0.0, "us"), Range("b", 0.1, 1000.0, "peer")], "ms"),
        ranges([Range("a", 1.0, 1.0, "us")], "ms"),
        lines([Line("a", [(0, 5.0)], "c0"), Line("b", [(0, 5.0), (1, 7.0)], "c1")], labels=[(0, "1")], unit="x"),
        lines([Line("a", [(0, 0.0), (1, 0.5)], "c0")], labels=[], unit="x", logarithmic=True),
        timeline([0, 0], step=0.1, start=0.0, marks=[]),
        timeline([1, 2, 3], step=0.1, start=-1.0, marks=[(0.0, "SIGKILL"), (0.5, "back")]),
    ],
)
def test_plots_of_odd_numbers(plot):
    """Zeros, single values, equal values: still a picture."""
    ET.fromstring(plot)
    assert "nan" not in plot


# ── rounds ───────────────────────────────────────────────────────────────────────────────────────


def one_round(number: int, who: str, value: float, better: str = "more", **facts: object) -> Figure:
    """Make the figure that a run records in one round."""
    return Figure(
        broker="redis", who=who, scenario="drain", name="1 process", unit="jobs/s", values=(value,), better=better,
        facts=facts, round=number, at=60.0 * number,
    )  # fmt: skip


def test_rounds_are_one_figure_whose_counts_are_added_up():
    """Nothing that was lost in one round is hidden by another."""
    rounds = [
        one_round(number, US, 10.0 * number, jobs=100, lost=number - 1, curve=[number, 7]) for number in (1, 2, 3)
    ]
    [figure] = Run([MACHINE, *rounds]).figures
    assert figure.values == (10.0, 20.0, 30.0)
    assert figure.facts == {"jobs": 300, "lost": 3, "curve": [2, 7], "rounds": [1, 2, 3]}


def test_a_ratio_compares_figures_of_one_round():
    """A machine that was slow in one round was slow for both; only rounds that both have are compared."""
    ours = [one_round(number, US, value) for number, value in ((1, 100.0), (2, 10.0), (3, 120.0))]
    theirs = [one_round(number, "Celery", value) for number, value in ((2, 5.0), (3, 40.0))]
    run = Run([MACHINE, *ours, *theirs])
    us, celery = run.figures
    assert run.ratio(us, celery) == Ratio(2.5, 2.0, 3.0, better=2, rounds=2)
    backwards = run.ratio(celery, us)
    assert backwards is not None
    assert backwards.better == 0


def test_less_is_better_where_it_is():
    """A latency of one is three times better than one of three."""
    run = Run([MACHINE, one_round(1, US, 1.0, "less"), one_round(1, "Celery", 3.0, "less")])
    us, celery = run.figures
    assert run.ratio(us, celery) == Ratio(3.0, 3.0, 3.0, better=1, rounds=1)


def test_a_ratio_to_nothing_is_none():
    """A zero divides nothing."""
    run = Run([MACHINE, one_round(1, US, 1.0), one_round(1, "Celery", 0.0)])
    us, celery = run.figures
    assert run.ratio(us, celery) is None


def test_a_run_that_was_stopped_says_so_and_how_long_it_lasted():
    """The header is made from what is there: the last figure's time, if the end was not written."""
    begun = MachineInfo(**{name: getattr(MACHINE, name) for name in MACHINE.__struct_fields__} | {"seconds": 0.0})
    run = Run([begun, one_round(9, US, 1.0)])
    assert run.lasted == "9 minutes, stopped before its end"
    assert Run([MACHINE, one_round(9, US, 1.0)]).lasted == "10 minutes"
    assert Run([begun]).lasted == "stopped before its end"


@pytest.mark.parametrize(
    "command",
    [
        "python -m benchmarks.compare --out /home/user/x --docs",
        "python -m benchmarks.compare --out=/home/user/x --docs",
        "python -m benchmarks.compare --out '/home/some body/x' --docs",
    ],
)
def test_the_command_has_no_path_of_the_machine(command):
    """A report does not say where the result was written."""
    assert public(command) == "python -m benchmarks.compare --docs"
    machine = MachineInfo(**{name: getattr(MACHINE, name) for name in MACHINE.__struct_fields__} | {"command": command})
    assert Run([machine]).machine.command == "python -m benchmarks.compare --docs"


def test_rounds_are_shown_for_each_broker():
    """A report gives the rounds of each broker, also where some have fewer."""
    run = Run([MACHINE, one_round(1, US, 1.0), one_round(2, US, 1.0), one_round(1, "Celery", 1.0)])
    assert run.rounds() == [("drain", {"redis": "1–2"})]


def test_numbers_are_written_alike_everywhere():
    """A ratio with the rounds' own, a spread in percent, and what took longest."""
    assert factor(Ratio(4.94, 4.6, 12.2, 3, 3)) == "4.9 × (4.6 … 12)"
    assert factor(Ratio(1.0, 1.0, 1.0, 0, 1)) == "1.00 ×"
    assert factor(Ratio(0.05, 0.05, 0.05, 0, 1)) == "0.050 ×"
    run = Run([MACHINE, one_round(1, US, 90.0), one_round(2, US, 110.0), one_round(3, US, 100.0)])
    assert spread(run.figures[0]) == "±10%"
    assert took(run.figures[0]) == "100.00 s (at most 110.00 s)"
    lost = Run([MACHINE, one_round(1, US, 15.0, lost=2, waited=15.0)])
    assert took(lost.figures[0]) == "not all: none for 15 s"
    assert spread(lost.figures[0]) == ""


def test_a_kill_that_lost_jobs_is_listed_with_the_kills(tmp_path):
    """A scenario that failed is no omission: the report lists it beside the others."""
    why = "failed: it was not done after 120 s, and was ended"
    records = [MACHINE, one_round(1, US, 1.0), Skipped(broker="redis", who=US, scenario="broker killed", why=why)]
    write_report(Run(records), tmp_path, None)
    assert f"| Redis | broker killed | taskcore | – | – | – | – | – | {why} |" in (tmp_path / "REPORT.md").read_text()
    page = (tmp_path / "report.html").read_text()
    assert why in page[page.index(">Killed<") : page.index(">Rounds<")]
