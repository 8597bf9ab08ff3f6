"""The gate: every seeded bug is found, by the model's random histories or by the sweep, within its budget."""

from __future__ import annotations

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.crash_sweep.sweep import cases, run
from taskcore.conformance.harness import Harness
from taskcore.conformance.model.machine import DEFAULT, machine
from tests.support.mutants import MUTANTS

BUDGET = settings(
    DEFAULT,
    max_examples=400,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    report_multiple_bugs=False,
    print_blob=False,
)


def make_harness():
    """Make a harness as in the tests of the model."""
    return Harness.in_memory(lease=32.0)


def run_model():
    """Run random histories, always the same ones; not shrunk, because only finding counts here."""
    run_state_machine_as_test(machine(make_harness), settings=BUDGET)


def sweep():
    """Run every case until one fails, recorded anew, because a bug may bring crash points of its own."""
    for case in cases(make_harness):
        try:
            run(case, make_harness)
        except AssertionError as error:
            raise ClauseViolated(f"{case}: {error}", "sweep") from error


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_bug_is_found(mutant):
    """A suite that does not notice this bug is decoration."""
    hunt = {"model": run_model, "sweep": sweep}[mutant.found_by]
    with mutant.plant(), pytest.raises((ClauseViolated, TimeoutError)) as caught:
        hunt()
    print(f"{mutant.name}: {mutant.found_by}: {str(caught.value).rpartition('→')[2].strip()}")  # noqa: T201 - shown with -s


def test_there_are_enough_of_them():
    """Both hunters have something to find."""
    assert len(MUTANTS) >= 18
    assert {mutant.found_by for mutant in MUTANTS} == {"model", "sweep"}
