"""The aims in the report: what they are compared with, by how much they are missed, and no reason but a true one."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.compare.report import write_report
from benchmarks.compare.report.aims import AIMS, Judged, aim_rows, judge, unmeasured
from benchmarks.compare.report.reasons import why_not
from benchmarks.compare.run import RAW, US, Run
from taskcore.bench import BenchRecord, Figure, MachineInfo

MACHINE = MachineInfo(
    when="2026-05-04T03:02:01+00:00", command="python -m benchmarks.compare", cpu="Abacus", cores=2, memory=4 << 30,
    system="Linux", python="CPython 3.11.7", loop="asyncio", taskcore="0.1.0", load=(0.1,), seconds=600.0,
)  # fmt: skip
UNITS = {"enqueue": "jobs/s", "drain": "jobs/s", "cost": "µs/job", "latency": "ms", "idle": "% of a core"}


def one(who: str, scenario: str, name: str, *values: float, broker: str = "nats", **facts: object) -> Figure:
    """Make a figure with a value for each round."""
    unit = UNITS[scenario]
    return Figure(
        broker=broker, who=who, scenario=scenario, name=name, unit=unit, values=values,
        better="more" if unit == "jobs/s" else "less", facts=facts,
    )  # fmt: skip


def drains(ours: float = 36_500.0, *, worker: float = 10.0, broker: float = 29.0, rival: float = 9_870.0) -> Run:
    """Make a drain of ours beside a rival's, with what each job costs in CPU."""
    return Run([
        MACHINE, one(US, "drain", "1 process", ours), one("Repid", "drain", "1 process", rival),
        one(US, "cost", "worker CPU", worker), one(US, "cost", "broker CPU", broker),
    ])  # fmt: skip


def judged(run: Run, scenario: str, name: str, of: str = "") -> Judged:
    """Find the one aim of this run on that figure."""
    [found] = [one for one in judge(run) if one.aim.figure == (scenario, name) and of in one.aim.of]
    return found


def why(*records: BenchRecord, figure: tuple[str, str]) -> str:
    """Return the last cell of an aim's line."""
    run = Run([MACHINE, *records])
    [row] = [row for row, one in zip(aim_rows(run), judge(run), strict=True) if one.aim.figure == figure]
    return row[-1]


# ── rivals ───────────────────────────────────────────────────────────────────────────────────────


def test_the_fastest_rival_has_the_smallest_ratio():
    """A rival with the greater median may be the slower neighbour; the ratio is the smaller one of the two."""
    ours = one(US, "drain", "1 process", 60.0, 10.0, 60.0, broker="redis")
    quick = one("Quick", "drain", "1 process", 9.0, 1.0, 9.0, broker="redis")
    steady = one("Steady", "drain", "1 process", 8.0, 8.0, 30.0, broker="redis")
    found = judged(Run([MACHINE, ours, quick, steady]), "drain", "1 process", "rival")
    assert found.than is not None
    assert (found.than.who, found.measured.middle) == ("Steady", 2.0)
    assert not found.holds
    assert (found.measured.better, found.measured.rounds) == (1, 3)


def test_a_library_that_lost_jobs_is_not_compared():
    """A library that loses jobs is no rival, however fast it is."""
    lossy = one("Lossy", "drain", "1 process", 99.0, broker="redis", lost=1)
    honest = one("Honest", "drain", "1 process", 2.0, broker="redis")
    run = Run([MACHINE, one(US, "drain", "1 process", 10.0, broker="redis"), lossy, honest])
    found = judged(run, "drain", "1 process", "rival")
    assert found.than is not None
    assert found.than.who == "Honest"
    assert not found.holds


@pytest.mark.parametrize(("broker", "who"), [("redis", "BullMQ (Node)"), ("nats", "Repid"), ("rabbitmq", "Repid")])
def test_only_redis_is_compared_with_rivals_in_other_languages(broker, who):
    """On the others the fastest Python rival counts."""
    figures = [
        one(name, "drain", "1 process", value, broker=broker)
        for name, value in ((US, 100.0), ("BullMQ (Node)", 20.0), ("Repid", 10.0), (RAW, 150.0))
    ]
    found = judged(Run([MACHINE, *figures]), "drain", "1 process", "rival")
    assert found.than is not None
    assert found.than.who == who


def test_every_broker_with_peers_has_an_aim_against_the_fastest_rival():
    """Every broker with peers has an aim against its fastest rival, with the wanted multiple."""
    wanted = {broker: [aim.wanted for aim in aims if "rival" in aim.of] for broker, aims in AIMS.items()}
    assert wanted == {"memory": [], "redis": [6], "nats": [6], "rabbitmq": [3]}


def test_a_library_that_loses_jobs_reaches_no_aim():
    """A library that loses jobs reaches no aim, however fast it is."""
    run = Run([MACHINE, one(US, "drain", "1 process", 100.0, lost=3), one("Repid", "drain", "1 process", 1.0)])
    [row] = aim_rows(run)
    assert row[2:] == ["100 × Repid", "no: 3 jobs lost", ""]


# ── lines ────────────────────────────────────────────────────────────────────────────────────────


def test_a_line_has_aim_measurement_and_difference():
    """At least and at most, shares and multiples; and in how many rounds it was otherwise than in the median."""
    run = Run([
        MACHINE,
        one(US, "enqueue", "bulk", 40.0, 60.0, 55.0), one(RAW, "enqueue", "bulk", 100.0, 100.0, 100.0),
        one(US, "enqueue", "one awaited", 60.0, 90.0, 50.0), one(RAW, "enqueue", "one awaited", 100.0, 100.0, 100.0),
        one(US, "cost", "worker CPU", 30.0), one(US, "latency", "50/s, p50", 0.5),
    ])  # fmt: skip
    assert [row[1:4] for row in aim_rows(run)] == [
        ["enqueue: bulk ≥ 50% of the raw client", "55% (40 … 60)", "yes, in 2 of 3 rounds"],
        [
            "enqueue: one awaited ≥ 75% of the raw client", "60% (50 … 90)",
            "no: 20.0% too little; in 1 of 3 rounds it did",
        ],
        ["latency: 50/s, p50 ≤ 1 ms", "0.5", "yes"],
        ["cost: worker CPU ≤ 20 µs/job", "30", "no: 1.50 × as much"],
    ]  # fmt: skip
    assert aim_rows(drains())[0][1:4] == [
        "drain: 1 process ≥ 6 × the fastest Python rival", "3.7 × Repid", "no: 38.4% too little",
    ]  # fmt: skip


def test_results_are_compared_with_the_drain_without():
    """Half of it, within the same rounds; and an absolute rate."""
    without, stored = (one(US, "drain", name, 100.0, broker="redis") for name in ("1 process", "with results"))
    rows = aim_rows(Run([MACHINE, without, stored]))
    assert [row[1:4] for row in rows] == [
        ["drain: with results ≥ 25,000 jobs/s", "100", "no: 99.6% too little"],
        ["drain: with results ≥ 50% of drain: 1 process", "100%", "yes"],
    ]


def test_an_aim_that_was_not_measured_is_named():
    """Leaving a scenario out reaches nothing."""
    missing = unmeasured(drains())
    assert "NATS JetStream, drain: 1 process against the raw client" in missing
    assert not [name for name in missing if "rival" in name or "Redis" in name]


def test_both_reports_have_the_aims_and_escape_their_texts(tmp_path):
    """Names of peers are text; a missed aim is loud."""
    run = drains()
    figures = [msgspec.structs.replace(figure, who=figure.who.replace("Repid", "Re & <pid>")) for figure in run.figures]
    write_report(Run([MACHINE, *figures]), tmp_path, None)
    page, text = (tmp_path / "report.html").read_text(), (tmp_path / "REPORT.md").read_text()
    assert "3.7 × Re &amp; &lt;pid&gt;" in page
    assert "<b class='loud'>no: 38.4% too little</b>" in page
    assert "| **no**: 38.4% too little | worker and server together use 39 µs" in text
    assert "Not measured in this run: NATS JetStream, enqueue: bulk" in text


# ── reasons ──────────────────────────────────────────────────────────────────────────────────────


def test_a_drain_that_needs_more_than_all_cores_says_so():
    """A drain that needs more than all cores is explained by the CPU of both, the cores and the needed rate."""
    assert aim_rows(drains())[0][-1] == (
        "worker and server together use 39 µs of CPU a job: 2 cores allow about 51,300/s, the aim needs 59,200/s"
    )


def test_a_worker_that_needs_more_than_its_core_says_so():
    """One process runs on one core."""
    assert aim_rows(drains(worker=20.0, broker=5.0))[0][-1] == (
        "the worker uses 20 µs of CPU a job: one core allows about 50,000/s, the aim needs 59,200/s"
    )


def test_sufficient_cores_are_not_blamed():
    """If the cores were enough, the reason only gives how much of them was in use."""
    assert aim_rows(drains(worker=10.0, broker=10.0))[0][-1] == (
        "worker and server together use 20 µs of CPU a job, which was 0.73 of 2 cores; "
        "the rest was idle, or used by other programs"
    )


def test_a_bound_that_was_exceeded_is_no_bound():
    """A rate above what the CPU times allow makes these times unusable as a reason."""
    assert aim_rows(drains(worker=60.0, broker=60.0))[0][-1] == "the run's figures do not tell"


def test_an_awaited_call_says_where_its_time_went():
    """An awaited call's time is split beside the raw client's."""
    ours = one(US, "enqueue", "one awaited", 4_000.0, cpu=120.0, broker_cpu=40.0)
    raw = one(RAW, "enqueue", "one awaited", 8_000.0, cpu=85.0)
    assert why(ours, raw, figure=("enqueue", "one awaited")) == (
        "a call takes 250 µs, with 120 of CPU in the sender and 40 in the server; "
        "the raw client's takes 125 µs, with 85 of CPU in the sender"
    )


def test_a_latency_is_seen_beside_other_rates_and_other_libraries():
    """The reason names whether the best library reaches the aim; if none does, the machine may fall asleep."""
    ours = one(US, "latency", "50/s, p50", 2.0), one(US, "latency", "500/s, p50", 0.8)
    assert why(*ours, one("Huey", "latency", "50/s, p50", 1.5), figure=("latency", "50/s, p50")) == (
        "at 500/s, with less time to fall asleep between two jobs, it is 0.8 ms; "
        "Huey, the best of the others, does not reach it either, with 1.5 ms"
    )
    assert why(*ours, one("Huey", "latency", "50/s, p50", 0.9), figure=("latency", "50/s, p50")) == (
        "at 500/s it is 0.8 ms; Huey, the best of the others, reaches it, with 0.9 ms"
    )


def test_a_late_sender_is_reported_and_how_few_jobs_make_a_percentile():
    """The delay of a late sender is part of the figure; the reason gives its median over the rounds."""
    rounds = [
        msgspec.structs.replace(
            one(US, "latency", "50/s, p50", 0.5, sender_late_p99_ms=late, measured=250), round=number
        )
        for number, late in enumerate((1.0, 30.0, 4.0), start=1)
    ]
    reason = why(*rounds, one(US, "latency", "50/s, p99", 8.0), figure=("latency", "50/s, p99"))
    assert reason == (
        "3 of the 250 jobs of a round decide it; the sender itself was up to 4 ms late (p99), which counts"
    )


def test_an_unknown_reason_is_reported_as_unknown():
    """A reason is given only where the aim was missed; without a known reason the report says so."""
    assert why(one(US, "cost", "worker CPU", 21.0), figure=("cost", "worker CPU")).startswith("JetStream wants")
    assert why(one(US, "cost", "worker CPU", 19.0), figure=("cost", "worker CPU")) == ""
    unknown = one(US, "idle", "worker CPU", 2.0, broker="redis")
    assert why(unknown, figure=("idle", "worker CPU")) == "the run's figures do not tell"


def test_a_busy_machine_explains_figures_but_not_ratios():
    """Both sides of a ratio had the same machine."""
    busy = msgspec.structs.replace(MACHINE, load=(3.0,))
    run = Run([busy, *drains().figures, one(US, "latency", "50/s, p50", 5.0)])
    reasons = {one.aim.figure: row[-1] for one, row in zip(judge(run), aim_rows(run), strict=True)}
    assert "busy" not in reasons["drain", "1 process"]
    assert reasons["latency", "50/s, p50"] == "the machine was busy (load 3)"


def test_other_kinds_of_figures_have_no_reason_in_the_run():
    """CPU and idle figures are reasons themselves."""
    figure = one(US, "cost", "worker CPU", 30.0)
    assert why_not(Run([MACHINE, figure]), figure, None, 20.0) == []
