"""The account after a sweep's case: nothing lost, doubled or forgotten."""

from __future__ import annotations

import anyio

from taskcore.conformance.checking import Expectations, Report, check_history, collect
from taskcore.conformance.crash_sweep.environment import ATTEMPTS, CRASHES, ERRORS, KEY_WINDOW
from taskcore.conformance.crash_sweep.scenario import DEADLY, Scenario
from taskcore.conformance.harness import CLOCK_TOLERANCE
from taskcore.deadletter import DeadLetter
from taskcore.records.names import is_start_name, outcome_name
from taskcore.results import StoredOutcome, decode_outcome
from taskcore.toolkit.failpoints import FAILPOINTS

__all__ = ["check", "check_recorded_history"]

CALL_TIMEOUT = 30.0  #: seconds that a call to a broker may take at most; its own limit is shorter
FAILED_BEFORE = ("retried", "keyed_and_retried", "retried_and_redelivered", "key_outlived")
TWO_JOBS_OF_ONE_KEY = ("key_wanted_twice", "key_held_by_the_dead")
STORAGE_HORIZON = 8 * 86_400.0  #: seconds after which nothing of ours may be left in a store


async def check_recorded_history(scenario: Scenario) -> Report:
    """Ask the checker, which knows nothing of the case: by the history, and by what is left."""
    tasks = scenario.history.tasks
    parts = scenario.app.components
    delta = scenario.margin + CLOCK_TOLERANCE
    expectations = Expectations.from_features(
        parts.backend.features, has_store=parts.store is not None, key_window=KEY_WINDOW * scenario.lease - delta
    )
    return check_history(
        scenario.history,
        await collect(scenario.app, [scenario.queue], tasks),
        attempts=lambda job: 1 if tasks.get(job) == scenario.last.name else ATTEMPTS,
        crashes=CRASHES,
        delta=delta,
        duplicates_allowed="unsettled",
        at_most_once=lambda job: tasks.get(job) == scenario.once.name,
        time_limit=CALL_TIMEOUT,
        expectations=expectations,
    )


async def check(scenario: Scenario, operation: str, state: str, point: str, *, until: float) -> None:
    """Check everything that has to be true when the queue is drained.

    :param until: seconds after which results are gone; 0: that cannot be waited for.
    :raises AssertionError: a promise was broken; the text names its clause.
    """
    scenario.crashes += _starved(scenario)
    letters = [letter async for letter in scenario.app.dead_letters.read(scenario.queue)]
    names = [scenario.id("a")] + ([scenario.id("b")] if state in TWO_JOBS_OF_ONE_KEY else [])
    if scenario.replayed is not None:
        names = [scenario.replayed]
        assert not [one for one in letters if one.job_id == scenario.id("a")], (
            "C13: replayed, and the letter is still there"
        )
    stats = await scenario.app.stats(scenario.queue)
    assert not stats.unfinished, f"C4: left in the queue: {stats}"
    counted = scenario.app.features.redeliveries != "absent"  # else only a key's record tells one holder from the next
    forgotten = operation == "once" and point in ("once.forgotten", "run.returned")
    outcomes = {name: await outcome_of(scenario, name) for name in names}
    for name, outcome in outcomes.items():
        starts = [line for line in scenario.starts.read() if line.job == name]
        own = [letter for letter in letters if letter.job_id == name]
        assert outcome is not None or forgotten, f"C1: no record says how {name} ended"
        if outcome is not None:
            _check_letters(outcome, own, once=operation == "once")
            if outcome.state == "succeeded":
                value = bytes(outcome.result).decode()
                assert value.strip('"') in {line.text for line in scenario.starts.read()}, (
                    f"C18: {value} was never returned"
                )
        fences = [line.fence for line in starts]
        told_apart = counted or (scenario.key is not None and state != "key_outlived")
        assert fences == sorted(set(fences) if told_apart else fences), f"C7: fences {fences}"
        limit = 1 + scenario.crashes + (state in FAILED_BEFORE) + (operation in ERRORS and operation not in DEADLY)
        limit = 1 if operation == "once" else limit
        assert len(starts) <= limit, f"C3: {len(starts)} starts, {limit} are allowed"
    _check_outcome(scenario, operation, state, outcomes)
    _check_key(outcomes, state)
    await _check_storage(scenario, point, until)


def _starved(scenario: Scenario) -> int:
    """Count the leases that living workers lost: in real time a wait for a processor may outlast a lease.

    By the guarantees that is a crash: the job is handed out anew, and starts once more.
    """
    entries = scenario.history.entries if scenario.margin else ()
    dead = {entry.who for entry in entries if entry.kind == "died"}
    return sum(entry.kind == "lost" and entry.job == scenario.id("a") and entry.who not in dead for entry in entries)


async def outcome_of(scenario: Scenario, job_id: str) -> StoredOutcome | None:
    """Return how a job ended."""
    store = scenario.app.components.store
    record = await store.get(outcome_name(job_id)) if store is not None else None
    return decode_outcome(record.value) if record is not None else None


def _check_letters(outcome: StoredOutcome, letters: list[DeadLetter], *, once: bool) -> None:
    """Check that each dead job has one complete letter, and no other job has one (C13)."""
    expected = 1 if outcome.state == "dead" and not once else 0
    assert len(letters) == expected, f"C13: ended as {outcome.state} with {len(letters)} dead letters"
    for letter in letters:
        trail = letter.trail
        assert letter.reason == outcome.reason, f"C13: the letter says {letter.reason}, the record {outcome.reason}"
        assert trail.attempts == len(trail.errors), f"C13: {trail.attempts} attempts, {len(trail.errors)} errors"
        if outcome.record is not None:
            last = trail.errors[-1].message if trail.errors else "nothing"
            assert last == outcome.record.message, f"C13: the last error of the letter is {last}"


def _check_outcome(scenario: Scenario, operation: str, state: str, outcomes: dict[str, StoredOutcome | None]) -> None:
    """Check that it has ended as it should."""
    outcome = outcomes.get(scenario.id("a"))
    if outcome is None or scenario.replayed is not None:
        return
    expected = {"dead"} if operation in DEADLY else {"succeeded"}
    if state in ("poisonous", "keyed_and_poisonous"):
        expected = {"dead"}
    elif scenario.crashes >= CRASHES:
        expected = expected | {"dead"}
    if state in ("expired", "redelivered_and_expired"):
        expected = {"expired"}
    if state == "asked_to_cancel":
        expected = {"cancelled"}
    if operation == "cancel":
        expected = {"cancelled"}
    assert outcome.state in expected, (
        f"C18: ended as {outcome.state} {outcome.reason} instead of {' or '.join(expected)}"
    )
    if outcome.reason == "poison":
        assert scenario.crashes >= CRASHES, f"C12: poison after {scenario.crashes} crashes"


def _check_key(outcomes: dict[str, StoredOutcome | None], state: str) -> None:
    """Check that a key has one committed outcome, and every job of it gets that (C10)."""
    values = {bytes(one.result) for one in outcomes.values() if one is not None and one.state == "succeeded"}
    assert len(values) <= 1 or state not in TWO_JOBS_OF_ONE_KEY, f"C10: one key, outcomes {values}"


async def _check_storage(scenario: Scenario, point: str, until: float) -> None:
    """Check that no marker is left, unless its worker died on the way to it; and in the end nothing at all (C23)."""
    store = scenario.app.components.store
    if store is None:
        return
    markers = [name for name in scenario.written if is_start_name(name) and await store.get(name) is not None]
    on_its_way = (
        point == "settle.settled" or point not in FAILPOINTS
    )  # an adapter's own points lie just before that one
    assert not markers or (point and on_its_way), f"C23: left behind {markers}"
    if until:
        await anyio.sleep(STORAGE_HORIZON + until)
        left = [name for name in scenario.written if await store.get(name) is not None]
        assert not left, f"C23: left behind for ever {left}"
