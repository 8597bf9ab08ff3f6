"""The plan of a run: which contender is next, what fits into the time, what happens to one that never ends."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from benchmarks.compare import session as session_module
from benchmarks.compare.contenders import Contender
from benchmarks.compare.limited import LeftBehind, Limited
from benchmarks.compare.peers import Installed
from benchmarks.compare.run import Run
from benchmarks.compare.session import Plan, Session
from benchmarks.compare.turns import GUESSED, Turns, guess, share, wanted
from taskcore.bench import FULL, SCENARIOS, BenchRecord, Figure, Skipped

ROOT = Path(__file__).parents[2]


def play(turns: Turns, seconds: dict[str, float]) -> tuple[list[str], float]:
    """Take all turns in their order, each as long as given; return the order and the end."""
    now, order = 0.0, []
    while (turn := turns.next(now)) is not None:
        order.append(f"{turn.scenario} {turn.round}")
        now += seconds[turn.scenario]
        turns.took(turn, seconds[turn.scenario])
    return order, now


# ── turns ────────────────────────────────────────────────────────────────────────────────────────


def test_every_scenario_has_its_first_round_before_any_has_its_second():
    """Every scenario has its first round before any has its second, so a stopped run has some of each."""
    order, _ = play(Turns({"enqueue": 1, "drain": 1}, 2), {"enqueue": 1, "drain": 1})
    assert order == ["enqueue 1", "drain 1", "enqueue 2", "drain 2"]


def test_not_everything_is_repeated_as_often():
    """Races have all rounds, the rest two of three; the long queue takes longest, and says nothing new twice."""
    order, _ = play(Turns({"enqueue": 1, "idle": 1, "backlog": 1}, 3), {"enqueue": 1, "idle": 1, "backlog": 50})
    assert order == ["enqueue 1", "idle 1", "backlog 1", "enqueue 2", "idle 2", "enqueue 3"]
    assert [wanted("idle", rounds) for rounds in (1, 2, 3, 6)] == [1, 2, 2, 4]


def test_a_scenario_that_does_not_fit_is_skipped_and_reported():
    """A scenario that takes too long for what is left gives way to shorter ones, and the end is kept."""
    turns = Turns({"drain": 10, "latency": 10, "results": 1}, 3, until=60)
    order, end = play(turns, {"drain": 10, "latency": 25, "results": 1})
    assert order == ["drain 1", "latency 1", "results 1", "drain 2", "results 2", "drain 3", "results 3"]
    assert end == 58
    assert turns.left == {"latency": (1, 3)}


def test_a_turn_is_as_long_as_the_last_one_was():
    """The guess counts only until the first measurement."""
    turns = Turns({"drain": 1}, 3, until=100)
    first = turns.next(0)
    assert first is not None
    turns.took(first, 60)
    assert turns.next(60) is None
    assert turns.left == {"drain": (1, 3)}


def test_no_round_begins_without_time():
    """Without time not even a first round begins."""
    turns = Turns({"drain": 10}, 1, until=5)
    assert turns.next(0) is None
    assert turns.left == {"drain": (0, 1)}


def test_brokers_share_the_time_by_what_they_have_to_do():
    """The first of them has its share; what it does not use is there for the others."""
    assert share(100, [1, 3]) == 25
    assert share(80, [3]) == 80
    assert share(10, [0.0, 0.0]) == 0


def test_every_scenario_has_a_guess():
    """Otherwise a budget would be planned with a number that fits none."""
    assert set(SCENARIOS) == set(GUESSED)
    assert guess("drain", peers=2, raw=True) > guess("drain", peers=1, raw=True) > guess("drain", peers=1, raw=False)
    assert guess("drain", peers=1, raw=False, ours=False) < guess("drain", peers=1, raw=False)


# ── the outer limit ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.anyio
async def test_a_call_that_ends_in_time_has_its_result_or_error():
    """A call that ends in time has its result or its error, as if it had been awaited."""

    async def fine() -> int:
        return 3

    async def bad() -> int:
        raise LookupError("no such queue")

    async with anyio.create_task_group() as group:
        limited = Limited(group)
        assert await limited.run(fine, 5) == 3
        with pytest.raises(LookupError, match="no such queue"):
            await limited.run(bad, 5)
        assert limited.stuck == 0


@pytest.mark.anyio
async def test_a_call_that_takes_too_long_is_cancelled():
    """A call that takes too long is cancelled, and the error says so."""
    async with anyio.create_task_group() as group:
        limited = Limited(group)
        with pytest.raises(TimeoutError, match=r"not done after 0.01 s, and was ended"):
            await limited.run(anyio.sleep_forever, 0.01)
        assert limited.stuck == 0


@pytest.mark.anyio
async def test_a_call_that_cannot_be_cancelled_is_abandoned():
    """The run goes on beside it, and knows that it must not wait for it."""
    release = anyio.Event()

    async def stubborn() -> None:
        with anyio.CancelScope(shield=True):
            await release.wait()

    async with anyio.create_task_group() as group:
        limited = Limited(group, grace=0.01)
        with pytest.raises(LeftBehind, match="nor did it end when it was cancelled"):
            await limited.run(stubborn, 0.01)
        assert limited.stuck == 1
        release.set()


# ── a session ────────────────────────────────────────────────────────────────────────────────────


class Toy(Contender):
    """Writes down when it was its turn."""

    def __init__(self, who: str, log: list[str], *, bad: str = "", has: tuple[str, ...] = ("enqueue", "drain")) -> None:
        super().__init__(who, "memory", list(has))
        self.log, self.bad = log, bad

    async def measure(self, scenario: str) -> list[Figure | Skipped]:
        """Measure one figure, whose value is its place in the order."""
        self.log.append(f"{scenario} {self.who}")
        if self.bad == "raises":
            raise ConnectionError("the broker is gone")
        if self.bad == "stuck":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.3)
        if self.bad == "lacks":
            return [self.skipped(scenario, "it has no such feature")]
        return [
            Figure(
                broker="memory",
                who=self.who,
                scenario=scenario,
                name="x",
                unit="jobs/s",
                values=(float(len(self.log)),),
            )
        ]


class Silent:
    """A display that counts."""

    def __init__(self) -> None:
        self.numbers: list[tuple[int, int]] = []

    def begins(self, broker, scenario, done, all):
        """Remember the numbers."""
        self.numbers.append((done, all))

    def ends(self, broker, scenario, seconds, outcome):
        """Do nothing."""


async def run_session(toys: list[Toy], monkeypatch, *, rounds: int = 2, until: float = math.inf) -> list[BenchRecord]:
    """Run a session of these contenders on memory."""

    async def contenders(self, broker, server, exits):
        return toys

    monkeypatch.setattr(Session, "_contenders", contenders)
    scenarios = {name: SCENARIOS[name] for name in ("enqueue", "drain")}
    records: list[BenchRecord] = []
    async with anyio.create_task_group() as group:
        plan = Plan(["memory"], scenarios, FULL, rounds, Installed(), until)
        await Session(plan, Limited(group, grace=0.05), Silent(), records.append).run()
    return records


@pytest.mark.anyio
async def test_contenders_take_turns_in_each_scenario(monkeypatch):
    """Each contender runs a scenario before the next scenario begins, and all scenarios before the next round."""
    log: list[str] = []
    records = await run_session(
        [Toy("raw client", log, has=("drain",)), Toy("taskcore", log), Toy("Celery", log)], monkeypatch
    )
    once = ["enqueue taskcore", "enqueue Celery", "drain raw client", "drain taskcore", "drain Celery"]
    assert log == once * 2
    figures = [record for record in records if isinstance(record, Figure)]
    assert [figure.round for figure in figures] == [1] * 5 + [2] * 5
    assert [figure.values for figure in figures] == [(float(number),) for number in range(1, 11)]


@pytest.mark.anyio
async def test_a_contender_that_fails_is_tried_again_and_one_that_lacks_a_feature_is_not(monkeypatch):
    """A failure may be chance and is tried again; a missing feature is reported once."""
    log: list[str] = []
    toys = [Toy("Fails", log, bad="raises", has=("drain",)), Toy("Lacks", log, bad="lacks", has=("drain",))]
    records = await run_session(toys, monkeypatch)
    skipped = [(one.who, one.why) for one in records if isinstance(one, Skipped) and one.who != "all"]
    assert skipped == [
        ("Fails", "failed: the broker is gone"),
        ("Lacks", "it has no such feature"),
        ("Fails", "in round 2: failed: the broker is gone"),
    ]


@pytest.mark.anyio
async def test_a_contender_that_cannot_be_ended_is_out_and_the_others_go_on(monkeypatch):
    """No scenario can hold up the run."""
    log: list[str] = []
    monkeypatch.setattr(session_module, "limit_of", lambda scenario: 0.0)
    monkeypatch.setattr(session_module, "EXTRA_SECONDS", 0.02)
    records = await run_session([Toy("Stuck", log, bad="stuck"), Toy("Fine", log)], monkeypatch, rounds=1)
    assert log == ["enqueue Stuck", "enqueue Fine", "drain Fine"]
    [skipped] = [one for one in records if isinstance(one, Skipped)]
    assert "nor did it end when it was cancelled; nothing more of Stuck was measured here" in skipped.why


@pytest.mark.anyio
async def test_a_budget_that_is_too_small_is_reported(monkeypatch):
    """What was left out stands in the report, and is not silently missing."""
    records = await run_session([Toy("taskcore", [])], monkeypatch, until=0.0)
    skipped = [(one.who, one.scenario, one.why) for one in records if isinstance(one, Skipped)]
    assert skipped == [
        ("all", "enqueue, drain", "left out altogether: the time was over"),
    ]


# ── the command ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(120)
def test_the_command_measures_in_rounds_and_writes_the_report(tmp_path):
    """The command measures two rounds in the given time; the report has none of this machine's paths."""
    options = ["--quick", "--brokers", "memory", "--only", "enqueue,drain", "--rounds", "2", "--seconds", "0.01"]
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", *options, "--budget", "10", "--out", str(tmp_path / "found")],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"}, capture_output=True, encoding="utf-8",
        timeout=100, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    run = Run.read(tmp_path / "found" / "raw.jsonl")
    assert run.whole
    assert run.skipped == []
    assert dict(run.rounds()) == {"enqueue": {"memory": "2"}, "drain": {"memory": "2"}}
    turns = [line.split(" · ")[:2] for line in ran.stderr.splitlines()]
    assert turns == [
        [f"memory, {who}", f"{name} {number}/2"]
        for number in (1, 2)
        for who, name in (("taskcore", "enqueue"), ("raw client", "drain"), ("taskcore", "drain"))
    ]
    for report in ("report.html", "REPORT.md"):
        text = (tmp_path / "found" / report).read_text()
        assert str(tmp_path) not in text
        assert "--budget 10" in text


def test_an_unknown_broker_is_refused():
    """An unknown broker is refused with the names of the known ones."""
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks.compare", "--brokers", "kafka"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"}, capture_output=True, encoding="utf-8",
        timeout=30, check=False,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "no broker is called kafka; there are: memory, redis" in ran.stderr
