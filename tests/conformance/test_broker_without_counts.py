"""A broker that says "again" and not how often, as classic queues do: what model and sweep still ask of it."""

from __future__ import annotations

from contextlib import contextmanager
from unittest.mock import patch

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from taskcore.backends.memory import backend as memory
from taskcore.conformance.clauses import ClauseViolated
from taskcore.conformance.crash_sweep.sweep import cases, run
from taskcore.conformance.harness import Harness
from taskcore.conformance.model.machine import DEFAULT, machine
from taskcore.conformance.model.rules import open_rules
from tests.support.broken import change, delivers

#: Always the same histories, not shrunk; and every crash behind two lost leases.
BUDGET = settings(DEFAULT, max_examples=30, derandomize=True, database=None, phases=(Phase.generate,))


def make_harness():
    """Make a harness as in the tests of the model."""
    return Harness.in_memory(lease=32.0)


CASES = [case for case in cases(make_harness) if "poisonous" in case.state or "twice" in case.state]


@contextmanager
def saying(translate, *, redeliveries="absent"):
    """Patch the broker to report this instead of its delivery count, and to declare how it counts."""
    features = change(memory.FEATURES, redeliveries=redeliveries)
    patched = delivers(lambda delivery: change(delivery, redeliveries=translate(delivery.redeliveries)))
    with patch.object(memory, "FEATURES", features), patched:
        yield


def again(count):
    """Reduce a count to what a flag can tell."""
    return min(count, 1)


def test_random_steps_keep_every_promise():
    """The model asks it for no count, and limits, keys and outcomes hold all the same (C3)."""
    with saying(again):
        run_state_machine_as_test(machine(make_harness), settings=BUDGET)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_crash(case):
    """A job that was lost twice before a process dies here ends once, completely, and leaves nothing behind."""
    with saying(again):
        run(case, make_harness)


def test_a_key_forgets_its_fence():
    """What a key's record knew of a job's holders is gone with its window, and the broker does not know it either."""
    with saying(again), open_rules(make_harness) as rules, rules.explaining():
        rules.live(["its worker dies running it"] * 2, key="k")
        rules.wait(129)
        rules.work("1", rules.take("1"), "succeeds")
        rules.finish()


def test_it_may_not_claim_to_count():
    """The same broker breaks its word if it says that it counts (C5)."""
    claiming = saying(again, redeliveries="native")
    with claiming, open_rules(make_harness) as rules, pytest.raises(ClauseViolated, match="C5"), rules.explaining():
        rules.live(["its worker dies running it"] * 3)


def test_a_repeated_delivery_is_always_marked():
    """A job that comes again like a new one would not be looked up, so not even this broker may forget it (C5)."""
    forgetting = saying(lambda _: 0)
    with forgetting, open_rules(make_harness) as rules, pytest.raises(ClauseViolated, match="C5"), rules.explaining():
        rules.live(["its worker dies running it"] * 2)
