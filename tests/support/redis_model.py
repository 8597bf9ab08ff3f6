"""Some runs of the model on a real broker, for a pool of processes: each run mostly waits for leases to end."""

from __future__ import annotations

import traceback

from hypothesis import Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from taskcore.conformance.harness import Harness
from taskcore.conformance.model.machine import REAL_TIME, machine


def run_model(
    number: int,
    url: str,
    examples: int,
    steps: int,
    lease: float,
    margin: float,
    store: str | None = None,
    phases: tuple[Phase, ...] = tuple(Phase),
) -> str:
    """Run the model so many times, alike for one number; return the (shrunk) steps of a failure, or nothing."""
    budget = settings(REAL_TIME, max_examples=examples, stateful_step_count=steps, database=None, phases=phases)
    model = seed(number)(machine(lambda: Harness.at(url, store=store, lease=lease, margin=margin), real_time=True))
    try:
        run_state_machine_as_test(model, settings=budget)
    except Exception:
        return traceback.format_exc()
    return ""
