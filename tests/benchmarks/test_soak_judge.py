"""The judge of the soak: it accepts a right history, and each rule finds a wrong one that no other rule finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks.soak.evidence import Remains, gather
from benchmarks.soak.judge import RULES, Judgement, judge
from benchmarks.soak.kinds import KINDS, LEASE
from benchmarks.soak.ledger import LedgerLine
from taskcore.conformance.checking import FoundLetter, Left, Snapshot

QUEUE = "soak"
WORKER, OTHER = "worker-1.1", "worker-2.1"


class Story:
    """A history under construction: lines of ledgers, and what is left at the end."""

    def __init__(self) -> None:
        self.lines: list[LedgerLine] = []
        self.outcomes: dict[str, str] = {}
        self.results: dict[str, str] = {}
        self.letters: list[FoundLetter] = []
        self.ready: set[str] = set()
        self.waste: list[tuple[str, str]] = []
        self.one_copy = True

    def tell(self, at: float, who: str, what: str, job: str = "", **facts: Any) -> None:
        """Add one line."""
        self.lines.append(LedgerLine(at, who, what, job, facts))

    def send(self, job: str, at: float = 0.0, **facts: Any) -> None:
        """Send a job that is confirmed."""
        self.tell(at, "sender.1", "sending", job, **facts)
        self.tell(at + 0.01, "sender.1", "confirmed", job)

    def run(
        self,
        job: str,
        at: float = 0.1,
        *,
        who: str = WORKER,
        copies: int = 0,
        facts: Mapping[str, Any] | None = None,
        **end: Any,
    ) -> None:
        """Start a job and end it; by default it returns ``r``.

        :param facts: what the function notes at its start.
        """
        run = f"{job}{len(self.lines)}"
        self.tell(at, who, "started", job, run=run, copies=copies, **({"attempt": 1, "fence": 1} | dict(facts or {})))
        if end != {"outcome": None}:
            self.tell(
                at + 0.01,
                who,
                "finished",
                job,
                run=run,
                copies=copies,
                **({"outcome": "returned", "result": "r"} | end),
            )

    def end(self, job: str, outcome: str = "succeeded", result: str = "r", reason: str = "") -> None:
        """Record how a job ended."""
        self.outcomes[job] = outcome
        if outcome == "succeeded":
            self.results[job] = result
        if outcome == "dead":
            self.letters.append(FoundLetter(f"letter of {job}", job, "", "", reason))

    def do(self, job: str, at: float = 0.0, **facts: Any) -> None:
        """Send, run and record a job."""
        self.send(job, at, **facts)
        self.run(job, at + float(facts.get("delay", 0.0)) + 0.1)
        self.end(job)

    def depend(self, job: str, at: float = 0.0) -> None:
        """Do a job whose dependency is open while it runs."""
        self.send(job, at)
        self.tell(at + 0.09, WORKER, "unit opened", job, unit=f"unit of {job}", pool="p")
        self.run(job, at + 0.1, facts={"unit": f"unit of {job}"})
        self.tell(at + 0.12, WORKER, "unit closed", job, unit=f"unit of {job}")
        self.end(job)

    def tick(self, job: str, second: int) -> None:
        """Run the job of an instant of the schedule."""
        self.run(job, float(second), facts={"instant": f"2027-01-01T00:00:{second:02}+00:00"})
        self.end(job)

    def forget(self, job: str) -> None:
        """Take a job out of the history."""
        self.lines = [line for line in self.lines if line.job != job]
        self.outcomes.pop(job, None)
        self.results.pop(job, None)

    def judged(self, **options: Any) -> Judgement:
        """Let the judge read it."""
        snapshot = Snapshot(
            {QUEUE: Left(ready=frozenset(self.ready))}, self.outcomes, tuple(self.letters), self.results
        )
        lines = sorted(self.lines, key=lambda line: line.at)
        remains = Remains(snapshot, self.waste)
        evidence = gather(lines, remains, one_copy=self.one_copy)
        return judge(evidence, **options)


def right() -> Story:
    """Tell a history in which one job of each kind ends as it should."""
    story = Story()
    for name in KINDS:
        if name not in {"rejected", "poison", "cancelled", "expiring", "depends", "tick"}:
            story.do(f"{name}-0", **({"key": "k0"} if name == "keyed" else {}))
    story.send("expiring-0", delay=1.0, expires=0.5)
    story.end("expiring-0", "expired")
    story.send("cancelled-0", delay=1.0)
    story.tell(0.1, "sender.1", "cancelling", "cancelled-0")
    story.tell(0.2, "sender.1", "cancelled", "cancelled-0")
    story.end("cancelled-0", "cancelled")
    story.send("rejected-0")
    story.run("rejected-0", outcome="raised", error="Reject: no")
    story.end("rejected-0", "dead", reason="rejected: no")
    story.tell(0.15, "sender.1", "heard", "awaited-0", result="r")
    story.send("poison-0")
    for number in range(1, 4):
        story.run("poison-0", 30.0 * number, who=f"worker-3.{number}", outcome=None)
        story.tell(30.0 * number + 1.0, "harness", "died", life=f"worker-3.{number}", status=86, asked="")
    story.end("poison-0", "dead", reason="poison")
    story.tell(0.2, WORKER, "told", "rejected-0", reason="rejected: no")
    story.tell(91.0, WORKER, "told", "poison-0", reason="poison")
    story.depend("depends-0")
    for second in (3, 4):
        story.tick(f"0192-{second}", second)
    story.tell(0.0, WORKER, "entered", pid=1, code="1")
    story.tell(0.05, WORKER, "pool opened", pool="p")
    story.tell(200.0, WORKER, "pool closed", pool="p")
    story.tell(200.1, WORKER, "left", pid=1)
    story.tell(0.0, "harness", "code", life="worker-1", number="1")
    for at in range(0, 200, 2):
        story.tell(float(at), WORKER, "size", memory=50_000_000, descriptors=20, tasks=40)
        story.tell(float(at), "harness", "roster", listed=[1], gone=[])
    story.tell(199.0, "harness", "roster at rest", why="")
    return story


# ── one wrong history for each rule ──────────────────────────────────────────────────────────────


def idle(story: Story) -> None:
    """Leave out every confirmation of one kind."""
    story.forget("large-0")


def lost(story: Story) -> None:
    """Lose a job that was confirmed."""
    story.send("fast-1")


def stuck(story: Story) -> None:
    """Leave a job in the queue."""
    story.do("fast-1")
    story.ready.add("fast-1")


def silent(story: Story) -> None:
    """Let a job return without an outcome that tells of it."""
    story.send("fast-1")
    story.run("fast-1")


def early(story: Story) -> None:
    """Start a snoozed job before the time that it asked for."""
    story.send("snoozed-1")
    story.run("snoozed-1", 1.0, outcome="raised", error="Snooze: 0.4", after=0.4)
    story.run("snoozed-1", 1.1, copies=1)
    story.end("snoozed-1")


def late(story: Story) -> None:
    """Start a job long after its deadline."""
    story.send("expiring-1", expires=1.0)
    story.run("expiring-1", 5.0)
    story.end("expiring-1")


def unexpected(story: Story) -> None:
    """Run a job although its enqueue was surely refused."""
    story.tell(1.0, "sender.1", "sending", "fast-1")
    story.tell(1.1, "sender.1", "refused", "fast-1")
    story.run("fast-1", 1.2)
    story.end("fast-1")


def overrun(story: Story) -> None:
    """Start a job that kills its worker for the fourth time."""
    story.run("poison-0", 130.0, who="worker-3.4", outcome=None)
    story.tell(131.0, "harness", "died", life="worker-3.4", status=86, asked="")


def wrong_end(story: Story) -> None:
    """Bury a job that kills its worker for another reason."""
    story.letters[-1] = FoundLetter("letter", "poison-0", "", "", "not retryable")


def untrue_letter(story: Story) -> None:
    """Write two dead letters of one job."""
    story.letters.append(FoundLetter("another", "rejected-0", "", "", "rejected: no"))


def key_twice(story: Story) -> None:
    """Record an outcome for each of two jobs with one key."""
    story.send("keyed-1", key="k0")
    story.run("keyed-1", result="s")
    story.end("keyed-1", result="s")


def once_twice(story: Story) -> None:
    """Start a job twice that may start at most once; that a fault explains it does not help."""
    story.do("once-1")
    story.tell(0.2, "harness", "fault", kind="kill", target=WORKER)
    story.run("once-1", 1.0, who=OTHER)


def once_gone(story: Story) -> None:
    """Lose a job that may start at most once, without a fault."""
    story.send("once-1")


def cancelled(story: Story) -> None:
    """Start a job whose caller was told that it never would."""
    story.do("cancelled-1", delay=0.5)
    story.tell(0.1, "sender.1", "cancelled", "cancelled-1")


def unheard(story: Story) -> None:
    """Let a caller wait for forty seconds for a job that had ended in the first one."""
    story.do("awaited-1")
    story.tell(40.2, "sender.1", "unheard", "awaited-1")


def left_behind(story: Story) -> None:
    """Leave the marker of a start behind, without a fault."""
    story.waste.append(("fast-0", "the marker start/fast-0/0 of a job that has ended"))


def unexplained(story: Story) -> None:
    """Start a job again that returned, without a fault."""
    story.do("fast-1")
    story.run("fast-1", 0.5, who=OTHER)


def lifespan(story: Story) -> None:
    """Let a worker enter its lifespan once more."""
    story.tell(1.0, WORKER, "entered", pid=1, code="1")


def dependency(story: Story) -> None:
    """Leave the dependency of a job open."""
    story.depend("depends-1")
    story.lines = [line for line in story.lines if (line.what, line.job) != ("unit closed", "depends-1")]


def hook(story: Story) -> None:
    """Bury a job, and call no hook."""
    story.lines = [line for line in story.lines if (line.what, line.job) != ("told", "rejected-0")]


def tick(story: Story) -> None:
    """Send two jobs for one instant."""
    story.tick("0193-4", 4)


def roster(story: Story) -> None:
    """List a worker long after its end."""
    story.lines = [
        line._replace(facts={"listed": [1, 2], "gone": [2]}) if line.what == "roster" and 50 <= line.at < 62 else line
        for line in story.lines
    ]


def stale_code(story: Story) -> None:
    """Write new code that no process imports."""
    story.tell(5.0, "harness", "code", life="worker-1", number="2")


def grown(story: Story) -> None:
    """Let a worker have more and more descriptors."""
    story.lines = [
        line._replace(facts={**line.facts, "descriptors": 20 + line.at}) if line.what == "size" else line
        for line in story.lines
    ]


def offence(story: Story) -> None:
    """End a worker that nothing ended."""
    story.tell(0.5, "harness", "offence", call=WORKER, error="ended with status 1 by itself")


WRONG = {
    "idle": idle, "lost": lost, "stuck": stuck, "silent": silent, "early": early, "late": late,
    "unexpected": unexpected, "overrun": overrun, "wrong end": wrong_end, "untrue letter": untrue_letter,
    "key twice": key_twice, "once twice": once_twice, "once gone": once_gone, "cancelled": cancelled,
    "unheard": unheard, "left behind": left_behind, "unexplained": unexplained, "lifespan": lifespan,
    "dependency": dependency, "hook": hook, "tick": tick, "roster": roster, "stale code": stale_code, "grown": grown,
    "offence": offence,
}  # fmt: skip


def test_a_right_history_is_clean():
    """A history in which every kind ends as it should has no finding."""
    assert right().judged().findings == []


def test_every_rule_has_a_wrong_history():
    """No rule is without a history that shows what it finds."""
    assert set(WRONG) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_a_wrong_history_is_found_by_its_rule_alone(rule):
    """Each rule finds its wrong history, and without the rule that history would pass."""
    story = right()
    WRONG[rule](story)
    others = {name: function for name, function in RULES.items() if name != rule}
    assert {finding.rule for finding in story.judged().findings} == {rule}
    assert story.judged(rules=others).findings == []


def test_a_start_before_the_delay_is_over_is_early():
    """A delay counts from the beginning of the call that asked for it."""
    story = right()
    story.send("delayed-1", 5.0, delay=2.0)
    story.run("delayed-1", 6.5)
    story.end("delayed-1")
    assert [finding.rule for finding in story.judged().findings] == ["early"]


def test_a_caller_that_hears_something_else_is_found():
    """The result that a caller got has to be the recorded one."""
    story = right()
    story.tell(0.3, "sender.1", "heard", "awaited-0", result="other")
    assert [finding.rule for finding in story.judged().findings] == ["unheard"]


def test_a_result_that_no_run_returned_is_found():
    """The recorded result has to be one that a run of the job returned."""
    story = right()
    story.results["fast-0"] = "other"
    assert [finding.rule for finding in story.judged().findings] == ["wrong end"]


# ── what is no offence ───────────────────────────────────────────────────────────────────────────


def test_a_double_after_a_kill_is_explained_by_it():
    """A job that starts again after its worker was killed is counted, with the kill as its cause."""
    story = right()
    story.send("slow-1")
    story.run("slow-1", outcome=None)
    story.tell(0.5, "harness", "fault", kind="kill", target=WORKER)
    story.tell(0.6, "harness", "healed", kind="kill", target=WORKER)
    story.run("slow-1", 5.0, who=OTHER)
    story.end("slow-1")
    judgement = story.judged()
    assert judgement.findings == []
    assert [double.cause for double in judgement.doubles if double.job == "slow-1"] == [f"kill of {WORKER}"]


def test_a_fault_of_another_worker_explains_no_double():
    """The kill of a worker that did not have the job is no cause."""
    story = right()
    unexplained(story)
    story.tell(0.2, "harness", "fault", kind="kill", target="worker-9.1")
    story.tell(0.3, "harness", "healed", kind="kill", target="worker-9.1")
    assert [finding.rule for finding in story.judged().findings] == ["unexplained"]


def test_a_fault_that_is_long_over_explains_no_double():
    """A cut explains what happens until a lease later, not what happens a minute later."""
    story = right()
    story.tell(1.0, "harness", "fault", kind="cut", target="workers' connections")
    story.tell(1.0, "harness", "healed", kind="cut", target="workers' connections")
    story.do("fast-1", 1.0 + 10 * LEASE)
    story.run("fast-1", 1.0 + 10 * LEASE + 0.5, who=OTHER)
    assert [finding.rule for finding in story.judged().findings] == ["unexplained"]


def test_a_failed_copy_that_starts_again_is_a_double():
    """A retry has the next number; the same number again needs a cause, although the first start failed."""
    story = right()
    story.send("retried-1")
    story.run("retried-1", 1.0, outcome="raised", error="E: e")
    story.run("retried-1", 1.5, who=OTHER)
    story.end("retried-1")
    assert [finding.rule for finding in story.judged().findings] == ["unexplained"]


def test_the_copy_of_an_explained_double_goes_on_where_there_may_be_copies():
    """A kill that left two copies explains the doubles of both, however late; elsewhere only the first one."""
    story = right()
    story.send("retried-1", 0.0)
    story.run("retried-1", 0.2, outcome="raised", error="E: e")
    story.tell(0.3, "harness", "fault", kind="kill", target=WORKER)
    story.tell(0.4, "harness", "healed", kind="kill", target=WORKER)
    story.run("retried-1", 5.0, who=OTHER, outcome="raised", error="E: e")
    for _ in range(2):
        story.run("retried-1", 5.0 + 10 * LEASE, who=OTHER, copies=1)
    story.end("retried-1")
    assert [finding.rule for finding in story.judged().findings] == ["unexplained"]
    story.one_copy = False
    assert story.judged().findings == []


def test_a_release_that_a_fault_cut_leaves_two_copies_where_there_may_be_some():
    """A start whose fence does not grow is that of another copy, and a fault since the sending explains it."""
    story = right()
    story.send("fast-1", 0.0)
    story.tell(0.3, "harness", "fault", kind="kill", target="broker")
    story.tell(0.4, "harness", "healed", kind="kill", target="broker")
    story.run("fast-1", 10.0 * LEASE, facts={"fence": 2})
    story.run("fast-1", 11.0 * LEASE, who=OTHER, facts={"fence": 1})
    story.end("fast-1")
    assert [finding.rule for finding in story.judged().findings] == ["unexplained"]
    story.one_copy = False
    assert story.judged().findings == []
    story.run("fast-1", 12.0 * LEASE, facts={"fence": 2})
    story.run("fast-1", 13.0 * LEASE, who=OTHER, facts={"fence": 3})
    assert story.judged().findings == []  # what was explained once explains what its copies do later


def test_a_redelivery_needs_a_fault_of_its_own():
    """A start with a higher fence is the same copy again, and only a fault at that time explains it."""
    story = right()
    story.one_copy = False
    story.send("fast-1", 0.0)
    story.tell(0.3, "harness", "fault", kind="kill", target="broker")
    story.tell(0.4, "harness", "healed", kind="kill", target="broker")
    story.run("fast-1", 10.0 * LEASE, facts={"fence": 2})
    story.run("fast-1", 11.0 * LEASE, who=OTHER, facts={"fence": 3})
    story.end("fast-1")
    assert [finding.rule for finding in story.judged().findings] == ["unexplained"]


def test_a_job_that_may_start_once_is_dead_where_a_fault_interrupted_it():
    """A stop between the early acknowledgement and the start ends such a job; without a fault that is a finding."""
    story = right()
    story.send("once-1", 0.0)
    story.outcomes["once-1"] = "dead"  # the broker has forgotten it, so it leaves no letter
    assert [finding.rule for finding in story.judged().findings] == ["once gone"]
    story.tell(0.3, "harness", "fault", kind="stop", target=WORKER)
    story.tell(0.4, "harness", "healed", kind="stop", target=WORKER)
    assert story.judged().findings == []


def test_retries_are_no_doubles():
    """A start that a failure, a snooze or an interruption called for is no double."""
    story = right()
    before = len(story.judged().doubles)
    story.send("retried-1")
    story.run("retried-1", 1.0, outcome="raised", error="E: e")
    story.run("retried-1", 2.0, copies=1, outcome="interrupted")
    story.run("retried-1", 3.0, copies=1)
    story.end("retried-1")
    judgement = story.judged()
    assert judgement.findings == []
    assert len(judgement.doubles) == before


def test_a_job_that_may_run_once_may_die_with_its_worker():
    """A kill between taking and starting takes a job at most once away, which its mode permits."""
    story = right()
    story.send("once-1")
    story.tell(0.2, "harness", "fault", kind="kill", target=WORKER)
    story.tell(0.3, "harness", "healed", kind="kill", target=WORKER)
    assert story.judged().findings == []


def test_a_cancellation_without_an_answer_may_have_happened():
    """A job whose cancellation had no answer may be gone without a record; with the answer "too late" it may not."""
    story = right()
    story.send("cancelled-1", delay=2.0)
    story.tell(1.0, "sender.1", "cancelling", "cancelled-1")
    assert story.judged().findings == []
    story.tell(1.1, "sender.1", "too late", "cancelled-1")
    assert [finding.rule for finding in story.judged().findings] == ["lost"]


def test_a_call_that_joined_a_key_confirms_the_first_job():
    """A second call with a key says that the first job is there: it is lost if it is not."""
    story = right()
    story.tell(1.0, "sender.1", "sending", "keyed-1", key="k1")
    assert story.judged().findings == []
    story.tell(1.1, "sender.2", "sending", "keyed-2", key="k1")
    story.tell(1.2, "sender.2", "joined", "keyed-2", first="keyed-1")
    assert [(finding.rule, finding.job) for finding in story.judged().findings] == [("lost", "keyed-1")]


def test_a_broker_that_may_have_copies_may_have_their_letters():
    """Several dead letters of one job are an offence only where the broker keeps one copy."""
    story = right()
    untrue_letter(story)
    story.one_copy = False
    assert story.judged().findings == []


# ── a worker for production ──────────────────────────────────────────────────────────────────────


def test_a_fault_of_a_member_explains_what_its_processes_do():
    """The kill of a supervisor's whole group explains the double of a job that one of its processes had."""
    story = right()
    story.send("slow-1")
    story.run("slow-1", who="worker-7.2/4711", outcome=None)
    story.tell(0.5, "harness", "fault", kind="kill", target="worker-7.2")
    story.tell(0.6, "harness", "healed", kind="kill", target="worker-7.2")
    story.run("slow-1", 5.0, who=OTHER)
    story.end("slow-1")
    assert story.judged().findings == []


def test_a_fault_of_one_process_explains_nothing_of_its_sibling():
    """The kill of one process is no cause for the double of a job that another process of the supervisor had."""
    story = right()
    story.send("slow-1")
    story.run("slow-1", who="worker-7.2/4711", outcome=None)
    story.tell(0.5, "harness", "fault", kind="kill one", target="worker-7.2/4712")
    story.tell(0.6, "harness", "healed", kind="kill one", target="worker-7.2/4712")
    story.run("slow-1", 5.0, who=OTHER)
    story.end("slow-1")
    assert [finding.rule for finding in story.judged().findings] == ["unexplained"]


def test_a_blocked_loop_explains_no_double():
    """A job that blocks its loop for longer than a lease keeps the lease: a second start needs another cause."""
    story = right()
    story.send("blocking-1")
    story.run("blocking-1", outcome=None, facts={"blocks": 1.5 * LEASE})
    story.run("blocking-1", 1.2 * LEASE, who=OTHER)
    story.end("blocking-1")
    assert [finding.rule for finding in story.judged().findings] == ["unexplained"]


def test_a_machine_that_stands_still_explains_a_double():
    """A job of the harness that took longer than a part of a lease is a cause; a lease later it is none."""
    story = right()
    unexplained(story)
    story.tell(0.4, "harness", "stall", began=-2.0, seconds=2.4)
    assert story.judged().findings == []
    story.tell(100.0, WORKER, "size")
    story.do("fast-2", 50.0)
    story.run("fast-2", 51.0, who=OTHER)
    assert [finding.job for finding in story.judged().findings] == ["fast-2"]


def test_a_lost_instant_is_found():
    """Between the first and the last instant of the schedule there is one job for each second."""
    story = right()
    story.tick("0192-6", 6)
    assert [(finding.rule, finding.why) for finding in story.judged().findings] == [
        ("tick", "no job came for the 1 instants after 1798761604")
    ]


def test_a_process_that_ends_itself_in_a_long_block_need_not_leave_its_lifespan():
    """A stopping worker ends itself while a job blocks its loop; a short block gives it time to leave."""
    for seconds, verdict in ((22.5, []), (6.0, ["lifespan"])):
        story = right()
        story.tell(0.0, "worker-7.1/4", "entered", pid=4)
        story.run("blocking-1", 0.1, who="worker-7.1/4", facts={"blocks": seconds}, outcome=None)
        story.run("blocking-1", 1.0, who=OTHER, facts={"fence": 2})
        story.tell(0.2, "harness", "fault", kind="reload", target="worker-7.1")
        story.tell(0.2, "harness", "healed", kind="reload", target="worker-7.1")
        story.send("blocking-1", 0.0)
        story.end("blocking-1")
        assert [finding.rule for finding in story.judged().findings if finding.rule == "lifespan"] == verdict


def test_a_process_that_was_killed_need_not_leave_its_lifespan():
    """Only processes that end in order leave their lifespan; an orphan ends in order."""
    story = right()
    for who in ("worker-7.2/5", "worker-7.3/6"):
        story.tell(1.0, who, "entered", pid=5, code="")
    story.tell(2.0, "harness", "fault", kind="kill one", target="worker-7.2/5")
    story.tell(2.0, "harness", "healed", kind="kill one", target="worker-7.2/5")
    story.tell(2.0, "harness", "fault", kind="orphan", target="worker-7.3")
    story.tell(2.0, "harness", "healed", kind="orphan", target="worker-7.3")
    assert [finding.why for finding in story.judged().findings] == [
        "worker-7.3/6 did not leave its lifespan, and nothing killed it"
    ]


def test_a_short_run_has_no_growth():
    """A process that was looked at for less than two minutes may grow."""
    story = right()
    grown(story)
    story.lines = [line for line in story.lines if line.what != "size" or line.at < 100.0]
    assert story.judged().findings == []


def test_a_deadline_begins_with_the_try_that_arrived():
    """A call that its sender repeats for seconds has its deadline by the last try, which its answer follows."""
    story = right()
    story.tell(0.0, "sender.1", "sending", "expiring-77", expires=1.0)
    story.tell(3.7, "sender.1", "confirmed", "expiring-77")
    story.run("expiring-77", 4.5)
    story.end("expiring-77")
    assert story.judged().findings == []
