"""One checker for all: it judges model and sweep, and it finds seeded bugs without their oracles."""

from __future__ import annotations

from unittest.mock import patch

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from taskcore.conformance.checking import GuaranteesBroken, HistoryEntry
from taskcore.conformance.crash_sweep import child
from taskcore.conformance.crash_sweep.environment import StartLog
from taskcore.conformance.crash_sweep.sweep import Case, run
from taskcore.conformance.harness import Harness
from taskcore.conformance.model.machine import DEFAULT, machine
from taskcore.conformance.model.rules import open_rules
from taskcore.conformance.model.system import ACTS
from taskcore.observe import Events
from taskcore.worker.settle import Settler
from tests.support.judged import sweep_without_oracle, without_oracle
from tests.support.mutants import MUTANTS

BUDGET = settings(
    DEFAULT, max_examples=400, derandomize=True, database=None, phases=(Phase.generate,), print_blob=False
)
PLANTS = {mutant.name: mutant.plant for mutant in MUTANTS}

#: Seeded bugs, and the count of the checker that has to see them in the model's histories.
IN_HISTORIES = {
    "ready_list_is_trimmed": "lost",
    "ack_forgets_ids": "duplicated",
    "promotion_is_not_atomic": "stuck",
    "promoted_early": "early",
    "expired_jobs_run": "late",
    "cancelled_jobs_still_start": "unexpected",
    "no_crash_limit": "overrun",
    "no_fencing": "unfenced",
    "keys_are_not_asked": "outcomes",
    "letter_keeps_the_last_error_only": "dlq_bad",
    "replay_keeps_the_letter": "dlq_bad",
}

#: Seeded bugs, and the count that has to see them in the cases of the sweep.
IN_CASES = {
    "retry_acks_before_it_republishes": "lost",
    "dead_letter_is_acked_first": "lost",
    "ack_before_the_result": "lost",
    "receive_pops_before_the_lease": "stuck",
    "promoted_early": "early",
    "expired_jobs_run": "late",
    "at_most_once_acks_afterwards": "overrun",
    "reclaiming_resets_the_count": "overrun",
    "keys_are_not_asked": "outcomes",
    "late_letter_lacks_its_last_error": "dlq_bad",
}


def make_harness():
    """Make a harness as in the tests of the model."""
    return Harness.in_memory(lease=32.0)


def run_model():
    """Run random histories that only the checker judges."""
    with without_oracle():
        run_state_machine_as_test(machine(make_harness), settings=BUDGET)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("bug", "count"), IN_HISTORIES.items())
def test_the_bug_is_found_in_histories(bug, count):
    """The checker alone finds this bug in the model's histories, and calls it by its name."""
    with PLANTS[bug](), pytest.raises(GuaranteesBroken) as caught:
        run_model()
    assert count in caught.value.report.violations
    assert " →\n" in str(caught.value)
    assert "the history of " in str(caught.value)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("bug", "count"), IN_CASES.items())
def test_found_in_cases(bug, count):
    """The checker alone finds this bug in the sweep's cases, and calls it by its name."""
    with PLANTS[bug](), pytest.raises(GuaranteesBroken) as caught:
        sweep_without_oracle(make_harness)
    assert count in caught.value.report.violations


@pytest.mark.timeout(120)
@pytest.mark.parametrize("hunt", [run_model, lambda: sweep_without_oracle(make_harness)])
def test_silence_is_found(hunt):
    """The checker alone finds a worker that buries jobs without an event."""
    with (
        patch.object(Settler, "count", lambda *_: None),
        patch.object(Events, "tell", lambda *_: None),
        pytest.raises(GuaranteesBroken) as caught,
    ):
        hunt()
    assert "silent" in caught.value.report.violations


@pytest.mark.timeout(120)
@pytest.mark.parametrize("hunt", [run_model, lambda: sweep_without_oracle(make_harness)])
def test_without_a_bug_nothing_is_found(hunt):
    """Switching the oracles off is not what makes the checker object."""
    hunt()


def test_a_failure_ends_with_what_the_checker_says():
    """A failure shows the steps, what is wrong, and the history of the job that it is about."""
    with open_rules(make_harness) as rules, rules.explaining():
        rules.enqueue()
        rules.work("1", rules.take("1"), "succeeds")
        now, facts = rules.system.history.entries[-1].at, {"queue": rules.system.queue}
        rules.system.history.extend([HistoryEntry(now, "x", "invoke", "B", facts), HistoryEntry(now, "x", "ok", "B")])
        with pytest.raises(GuaranteesBroken) as caught, rules.explaining():
            rules.finish()
    steps, _, report = str(caught.value).partition(" →\n")
    assert steps.startswith("enqueue A; worker 1 takes A; A succeeds; worker 1 settles A; everything heals;")
    assert "B: enqueued, never started, no dead letter, not in any queue" in report
    assert "the history of B" in report


def test_everything_is_written_down():
    """Clients, workers, crashes and strangers of a run are in its history, each under its own name."""
    with open_rules(make_harness) as rules, rules.explaining():
        model = rules.enqueue()
        held = rules.take("1")
        rules.perform("1", held, ACTS["fails"])
        rules.settle("1", held, crash=2)
        rules.cancel(rules.enqueue(), crash=1)
        rules.put_foreign(b"{")
        rules.finish()
        entries = rules.system.history.entries
    recorded = [(entry.who, entry.kind) for entry in entries if entry.job == model.id and entry.kind != "event"]
    assert recorded[:5] == [
        ("client-1", "invoke"),
        ("client-1", "ok"),
        ("worker-1-1", "start"),
        ("worker-1-1", "end"),
        ("worker-1-1", "settled"),
    ]
    assert [entry.who for entry in entries if entry.kind == "died"] == ["worker-1-1", "client-1"]
    assert ("stranger", "invoke") in {(entry.who, entry.kind) for entry in entries}


@pytest.mark.timeout(60)
def test_histories_in_real_time():
    """The checker reads the same histories in real time; the times are the harness's."""
    budget = settings(BUDGET, max_examples=3, stateful_step_count=10)
    run_state_machine_as_test(
        machine(lambda: Harness.in_memory(lease=0.2, margin=0.2), real_time=True), settings=budget
    )


@pytest.mark.timeout(60)
def test_cases_in_real_time():
    """A case of the sweep passes in real time."""
    case = Case("succeed", "settle.ended", 1, "redelivered")
    run(case, lambda: Harness.in_memory(lease=0.2, margin=0.1), real_time=True)


@pytest.mark.timeout(60)
def test_a_process_that_really_dies_leaves_its_history(tmp_path):
    """What a process did before its death is in the history by which its case is judged, and that it died."""
    die, scenarios = child.dying("memory://", tmp_path / "starts"), []

    async def dying(scenario, case):
        scenarios.append(scenario)
        return await die(scenario, case)

    case = Case("enqueue", "enqueue.published", 1, "unknown")
    make = lambda: Harness.in_memory(lease=0.2, margin=0.1)  # noqa: E731
    run(case, make, real_time=True, dying=dying, starts=StartLog(tmp_path / "starts"))
    entries = scenarios[0].history.entries
    theirs = [(entry.who, entry.kind) for entry in entries if entry.who.startswith("child") and entry.kind != "event"]
    assert theirs == [("child-1.client-1", "invoke"), ("child-1.client-1", "ok"), ("child-1", "died"), theirs[-1]]
    assert theirs[-1] == ("child-1.client-1", "died")
    assert [entry.at for entry in entries] == sorted(entry.at for entry in entries)
