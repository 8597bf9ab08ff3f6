"""The conformance suite on the in-memory broker, and proof that it notices broken ones.

Every check is played under a virtual clock on trio and in real time on asyncio; and every check has at least one broken
broker, store or worker that it has to catch: a suite that no broker can fail is decoration.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import InvalidSetting, conformance
from taskcore.backend import Features
from taskcore.backends.memory import FEATURES
from taskcore.conformance import (
    CLAUSES,
    NOT_PROMISED,
    THEMES,
    Certificate,
    Check,
    CheckResult,
    all_checks,
    certify,
    check,
    require,
    run_check,
)
from taskcore.conformance.harness import Harness
from tests.support.broken_parts import MUTANTS

every_check = pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)

LEASE, MARGIN = 0.8, 0.5  #: seconds, in real time


# ── on the in-memory broker ──────────────────────────────────────────────────────────────────────


@every_check
def test_in_virtual_time(check: Check, virtual_time: Any) -> None:
    """The in-memory broker keeps every promise, exactly to the moment."""

    async def scenario() -> None:
        harness = Harness.in_memory(lease=1.0)
        async with harness:
            await check(harness)
        assert await harness.traces() == []

    anyio.run(scenario, **virtual_time)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    """Certify the in-memory broker in real time."""

    async def scenario() -> Certificate:
        return await certify("memory://", lease=LEASE, margin=MARGIN, concurrency=20)

    return anyio.run(scenario)


@every_check
def test_in_real_time(check: Check, certificate: Certificate) -> None:
    """The in-memory broker keeps every promise while all checks play side by side on asyncio."""
    [finding] = [finding for finding in certificate.results if finding.check == check.name]
    assert (finding.standing, finding.why) == ("kept", "")


def test_the_certificate_of_memory(certificate: Certificate) -> None:
    """Nothing is broken, nothing is left behind, and every clause that is a promise is kept."""
    assert certificate.is_kept
    assert (certificate.broken, certificate.left) == ((), ())
    assert {number: certificate.clause(number)[0] for number in CLAUSES} == {
        number: None if number in NOT_PROMISED else "kept" for number in CLAUSES
    }
    assert certificate.latest is not None
    assert certificate.latest < MARGIN
    report, plain = certificate.report(), json.loads(certificate.json())
    assert FEATURES.durability in report
    assert all(
        f" {number} " in report and clause.means in report for number, clause in CLAUSES.items() if number != "C11"
    )
    assert (plain["kept"], plain["clauses"]["C7"], plain["clauses"]["C11"]) == (True, "kept", None)


# ── the suite itself ─────────────────────────────────────────────────────────────────────────────


def test_every_clause_has_a_check() -> None:
    """A clause without a check would be a wish, and a check without a clause a whim."""
    checked = {clause for one in all_checks() for clause in one.clauses}
    assert checked == set(CLAUSES) - NOT_PROMISED


def test_every_feature_switches_a_check() -> None:
    """Whatever a broker may say that it cannot do, at least one check knows what that means."""
    kinds = [field for field in Features.__struct_fields__ if getattr(FEATURES, field) == "native"]
    needed = {field for one in all_checks() for field in one.needs}
    assert needed >= {*kinds, "survives_worker"}


def test_every_check_is_in_a_theme() -> None:
    """Checks are found where the package says, and each says its rule in one sentence."""
    names = {theme.__name__ for theme in THEMES}
    folder = Path(conformance.__file__).parent / "guarantees"
    files = {path.stem for path in folder.glob("*.py") if "@check(" in path.read_text()}
    assert names == {f"taskcore.conformance.guarantees.{file}" for file in files}
    assert all(one.doc.endswith(".") and one.name.islower() for one in all_checks())


def test_a_check_says_what_it_is() -> None:
    """A check that names no clause, an unknown one, an unknown feature or a known check is refused at once."""

    async def new(harness: Harness) -> None:
        """State a rule."""

    async def a_job_has_one_lease_at_a_time(harness: Harness) -> None:
        """Take the name of another check."""

    part: list[Check] = []
    for clauses, needs, function in ((), "", new), (("C99",), "", new), (("C1",), "wings", new):
        with pytest.raises(TypeError):
            check(part, *clauses, needs=needs or ())(function)
    with pytest.raises(TypeError):
        check(part, "C1")(a_job_has_one_lease_at_a_time)
    assert part == []


def finding_of(function: Any, virtual_time: Any, *, limit: float = 20.0, **declared: Any) -> CheckResult:
    """Run a check that is made up for a test, on a broker that declares other features."""
    made = Check("made_up", ("C1",), tuple(declared), store=False, doc="", function=function)

    class Declaring(Harness):
        async def __aenter__(self) -> Any:
            await super().__aenter__()
            self.features = Features(
                **{name: getattr(FEATURES, name) for name in Features.__struct_fields__} | declared
            )
            return self

    async def scenario() -> CheckResult:
        return await run_check(made, Declaring.in_memory, limit=limit)

    return anyio.run(scenario, **virtual_time)


async def fine(harness: Harness) -> None:
    """Keep the promise."""


async def wrong(harness: Harness) -> None:
    """Break the promise."""
    require(harness is None, "two and two make five")


async def stuck(harness: Harness) -> None:
    """Wait for a promise that is never kept."""
    await anyio.sleep_forever()


def test_standings(virtual_time: Any) -> None:
    """Kept, emulated, refused and broken, with the reason; what never ends is broken after its time."""
    assert finding_of(fine, virtual_time).standing == "kept"
    assert finding_of(fine, virtual_time, delay="emulated").standing == "emulated"
    refused = finding_of(wrong, virtual_time, delay="absent")
    assert (refused.standing, refused.why) == ("refused", "memory has no delay")
    broken = finding_of(wrong, virtual_time, delay="emulated")
    assert (broken.standing, broken.why) == ("broken", "two and two make five")
    late = finding_of(stuck, virtual_time, limit=3.0)
    assert (late.standing, late.why, round(late.seconds)) == ("broken", "it did not end within 3 s", 3)


def test_only_some() -> None:
    """``only`` takes clauses and names; what does not exist is refused before anything is played."""

    async def scenario(*only: str) -> Certificate:
        return await certify("memory://", only=only, lease=LEASE, margin=MARGIN)

    some = anyio.run(scenario, "c24", "every_verb_returns_in_time")
    assert [finding.check for finding in some.results] == [
        "every_verb_returns_in_time",
        "invalid_arguments_never_reach_the_function",
    ]
    assert "nothing is said about the rest" in some.report()
    with pytest.raises(InvalidSetting, match="C99"):
        anyio.run(scenario, "C99")


def test_on_the_command_line(tmp_path: Path) -> None:
    """The certificate goes to stdout, progress to stderr, and the exit code says whether anything is broken."""
    command = [sys.executable, "-m", "taskcore", "conformance", "memory://", "--only", "c24,every_verb_returns_in_time"]
    text = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert text.returncode == 0
    assert "nothing broken" in text.stdout
    assert [line.split()[:2] for line in text.stderr.splitlines()] == [
        ["kept", "every_verb_returns_in_time"],
        ["kept", "invalid_arguments_never_reach_the_function"],
    ]
    plain = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert json.loads(plain.stdout)["clauses"]["C24"] == "kept"


def test_the_exit_code_of_a_broken_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken promise is named and sets the exit code."""
    from click.testing import CliRunner  # noqa: PLC0415 - the command line is an extra

    from taskcore.cli.commands.conformance import command  # noqa: PLC0415

    finding = CheckResult(
        check="a_job_has_one_lease_at_a_time", clauses=("C6",), standing="broken", doc="", why="it had two"
    )

    async def broken(*_: Any, **__: Any) -> Certificate:
        return Certificate(
            url="memory://", store=None, version="0", features=FEATURES, lease=1.0, seconds=1.0, results=(finding,)
        )

    monkeypatch.setattr(conformance, "certify", broken)
    answer = CliRunner().invoke(command, ["memory://"], standalone_mode=False)
    assert answer.return_value == 1
    assert "✗ a_job_has_one_lease_at_a_time: it had two" in answer.output


# ── it notices ───────────────────────────────────────────────────────────────────────────────────

#: Each check, and something broken that it has to notice (see broken.py and broken_parts.py).
NOTICES = {
    "a_waiting_receive_gets_the_next_job": ("does not notice new work", "hands out twice", "forgets when it hands out"),
    "a_batch_stays_within_its_limit": ("ignores queues and limits", "loses every third"),
    "a_job_has_one_lease_at_a_time": ("loses every third", "hands out twice"),
    "a_lease_expires_when_its_worker_is_silent": ("leases for ever", "forgets acks"),
    "a_lease_expires_when_its_worker_is_gone": ("leases for ever", "loses every third"),
    "expired_leases_are_counted": ("blames workers that give back", "counts no redeliveries"),
    "extending_keeps_a_lease": ("never extends", "forgets acks"),
    "a_cancelled_receive_loses_nothing": ("loses what a cancelled receive had taken",),
    "a_waiting_receive_blocks_no_other_call": ("does one thing at a time", "hands out twice"),
    "cancelling_a_receive_is_immediate": ("cannot be interrupted", "lingers when it is left"),
    "a_stored_job_outlives_its_publisher": ("forgets when a client disconnects", "loses every third"),
    "bytes_arrive_unchanged": ("strips bytes", "counts one too many"),
    "every_item_of_a_batch_is_answered": ("answers half of a batch", "ignores queues and limits"),
    "a_repeated_enqueue_reaches_a_new_queue": ("begins anew with each try",),
    "earlier_queues_are_served_first": ("ignores queues and limits", "loses every third"),
    "a_repeated_id_is_stored_once": ("never says duplicate", "ignores delays"),
    "a_repeated_id_does_not_revive_a_dead_job": ("never says duplicate", "ignores ids"),
    "concurrent_repeats_are_stored_once": ("never says duplicate", "ignores ids"),
    "an_interrupted_publish_can_be_repeated": ("ignores ids", "hands out twice"),
    "a_job_at_rest_is_in_one_place": ("counts nothing", "counts one more"),
    "the_age_of_the_oldest_job_is_known": ("counts nothing", "counts one more"),
    "a_removed_job_is_never_delivered": ("always says removed", "always says not removed"),
    "a_job_is_removed_or_received": ("always says removed", "always says not removed"),
    "a_job_can_be_found": ("locates nothing", "ignores delays"),
    "every_verb_returns_in_time": ("always says dropped", "always says removed"),
    "draining_leaves_an_empty_queue": ("counts one more", "loses on retry"),
    "a_deleted_queue_is_gone": ("does not delete", "ignores queues and limits"),
    "purging_keeps_leased_jobs_and_dead_letters": ("purges dead letters", "counts nothing"),
    "any_delay_above_zero_is_one": ("loses on retry",),
    "a_delay_is_kept_within_its_tolerance": ("delivers early", "delivers late"),
    "a_long_delay_does_not_block_a_short_one": ("delivers early", "delivers late"),
    "a_schedule_survives_a_reconnect": ("forgets when a client disconnects", "delivers early"),
    "overdue_jobs_are_delivered_at_once": ("forgets when a client disconnects", "loses every third"),
    "a_retry_waits_for_its_delay": ("retries early", "lingers when it is left"),
    "a_repeated_schedule_is_stored_once": ("delivers early", "delivers late"),
    "a_delayed_job_is_counted_as_scheduled": ("ignores delays", "counts nothing"),
    "a_short_retry_is_not_lost": ("loses on a retry with a short wait", "forgets trails"),
    "an_acknowledged_job_is_never_delivered_again": ("forgets acks", "loses every third"),
    "a_retry_carries_the_new_trail": ("blames workers that give back", "counts one too many"),
    "a_released_job_is_available_at_once": ("blames workers that give back", "loses on release"),
    "each_verdict_of_a_batch_has_its_own_effect": ("loses on release", "forgets trails"),
    "settling_again_has_no_effect": ("forgets acks", "never answers"),
    "a_late_ack_changes_nothing": ("cannot be interrupted", "has no fence"),
    "a_late_reschedule_changes_nothing": ("cannot be interrupted", "has no fence"),
    "a_late_release_changes_nothing": ("cannot be interrupted", "has no fence"),
    "a_late_bury_changes_nothing": ("cannot be interrupted", "has no fence"),
    "a_late_extend_changes_nothing": ("extends anything", "leases for ever"),
    "a_lost_lease_fails_only_its_own_verdict": ("has no fence", "leases for ever"),
    "settling_at_the_end_of_a_lease_counts_once": ("has no fence", "forgets acks"),
    "records_are_read_as_written": ("store: strips values", "store: reads out of order"),
    "only_one_writer_creates_a_record": ("store: hides conflicts", "store: compares nothing"),
    "a_version_allows_one_write": ("store: compares and sets in two steps", "store: hides conflicts"),
    "versions_never_repeat": ("store: repeats versions",),
    "one_of_many_concurrent_writes_succeeds": ("store: compares and sets in two steps", "store: keeps the first end"),
    "an_expired_record_is_absent_for_every_verb": ("store: compares and sets in two steps", "store: keeps for ever"),
    "each_write_sets_a_new_expiry": ("store: keeps for ever", "store: keeps the first end"),
    "a_batch_of_writes_is_answered_in_order": ("store: answers out of order", "store: hides conflicts"),
    "a_watch_yields_the_record_and_each_change": ("store: does not push",),
    "a_watch_misses_no_write_after_its_start": ("store: does not push",),
    "a_dead_letter_keeps_the_bytes_unchanged": ("alters dead letters", "strips bytes"),
    "dead_letters_are_read_in_pages": ("does not drop", "turns letters around"),
    "a_dropped_letter_is_deleted": ("always says dropped", "does not drop"),
    "a_replay_makes_one_job": ("replays copies", "counts one too many"),
    "letters_stay_until_dropped": ("turns letters around", "loses on bury"),
    "a_dead_letter_has_the_error_history": ("core: keeps the latest error", "core: counts no attempts"),
    "a_replay_is_a_new_job_linked_to_the_old": ("replays copies", "forgets reasons"),
    "undecodable_bytes_do_not_affect_other_jobs": ("alters dead letters", "strips bytes"),
    "an_oversized_message_is_refused_or_buried": ("turns letters around", "counts nothing"),
    "a_job_of_an_unknown_task_waits": ("loses on retry",),
    "a_job_with_an_unencodable_result_is_not_run_again": ("forgets reasons", "loses on bury"),
    "a_pass_settles_letters_as_it_reads_them": ("drops nothing in a pass", "does not drop"),
    "a_pass_that_is_cut_hides_no_letter": ("loses letters of a pass that is cut",),
    "a_letter_is_dropped_by_one_pass": ("drops nothing in a pass",),
    "replays_are_counted": ("core: forgets replays", "replays copies"),
    "a_call_with_a_newer_parameter_waits": ("core: buries calls with newer parameters",),
    "jobs_are_shown_without_being_taken": ("takes what it shows",),
    "many_queues_are_counted_at_once": ("counts nothing", "counts one more"),
    "a_killed_worker_loses_nothing": ("leases for ever", "loses every third"),
    "a_crash_while_settling_loses_no_result": ("core: examines nothing", "counts no redeliveries"),
    "a_crash_while_burying_leaves_one_letter": ("core: examines nothing", "counts no redeliveries"),
    "a_crash_while_retrying_leaves_one_copy": ("core: lets errors out", "leases for ever"),
    "counters_never_decrease": ("counts no redeliveries", "loses on release"),
    "starts_are_bounded": ("core: examines nothing", "forgets reasons"),
    "a_job_that_kills_its_worker_is_buried": ("core: examines nothing", "counts no redeliveries"),
    "other_jobs_of_a_crashed_worker_are_not_blamed": ("lingers when it is left", "leases for ever"),
    "an_at_most_once_job_survives_its_acknowledgement": (
        "core: leases what it acknowledges first",
        "loses every third",
    ),
    "a_shutdown_waits_for_a_job_that_is_being_acknowledged": ("core: leases what it acknowledges first",),
    "an_at_most_once_job_starts_at_most_once": ("core: forgets nothing first", "core: lets errors out"),
    "a_worker_without_its_lease_writes_nothing": ("core: says nothing", "counts no redeliveries"),
    "a_key_stands_for_one_job": ("store: keeps the first end", "core: claims no key"),
    "a_key_belongs_to_its_arguments": ("core: claims no key", "core: says nothing"),
    "a_crashed_enqueue_can_be_repeated": ("core: claims no key", "locates nothing"),
    "a_key_is_free_after_its_holder_crashes": ("core: stops late", "core: takes every key"),
    "only_the_current_holder_of_a_key_commits": ("core: commits any key", "core: says nothing"),
    "a_key_without_an_outcome_can_be_used_again": ("core: counts no attempts", "always says not removed"),
    "a_second_job_waits_for_a_held_key": ("core: takes every key", "does one thing at a time"),
    "a_cancelled_job_never_starts": ("core: says cancelled", "core: says nothing"),
    "a_job_starts_or_is_cancelled_never_both": ("core: says cancelled", "always says not removed"),
    "a_running_job_sees_the_cancel_request": ("always says removed", "core: says cancelled"),
    "an_id_belongs_to_its_task": ("core: answers with any task's outcome",),
    "an_interrupted_cancel_loses_no_job": ("core: acknowledges first",),
    "an_interrupted_cancel_can_be_repeated": ("always says not removed", "ignores ids"),
    "nothing_starts_after_its_deadline": ("core: ignores deadlines", "core: acknowledges first"),
    "a_deadline_holds_between_attempts": ("core: ignores deadlines", "ignores delays"),
    "retries_follow_the_policy": ("retries early", "core: counts no attempts"),
    "an_outcome_never_changes": ("core: says cancelled", "never says duplicate"),
    "a_late_outcome_is_rejected": ("core: lets late outcomes stand",),
    "a_delayed_call_starts_on_time": ("delivers early", "delivers late"),
    "an_ended_job_can_be_polled": ("core: forgets ends",),
    "counters_agree_with_outcomes": ("core: counts no ends",),
    "what_does_not_exist_has_an_answer": ("always says removed", "always says dropped"),
    "statuses_are_the_same_words": ("locates nothing",),
    "an_interrupted_job_uses_no_attempt": ("core: blames the interrupted", "blames workers that give back"),
    "no_job_starts_after_the_signal": ("ignores queues and limits", "counts one too many"),
    "an_idle_worker_stops_at_once": ("core: stops late", "cannot be interrupted"),
    "every_record_expires": ("core: clears no markers", "always says not removed"),
    "storage_returns_to_its_baseline": ("store: keeps for ever", "counts one more"),
    "every_job_reaches_an_outcome": ("core: counts no attempts", "turns letters around"),
    "every_suppressed_job_is_reported": ("never says duplicate", "core: counts no attempts"),
    "waiting_for_a_result_times_out": ("locates nothing", "ignores ids"),
    "invalid_arguments_never_reach_the_function": ("core: checks no arguments", "counts nothing"),
    "no_task_error_stops_the_worker": ("core: counts no attempts", "core: lets errors out"),
    "an_unreadable_record_ends_its_own_job": ("core: lets errors out", "loses on bury"),
    "what_no_server_takes_is_refused_alone": ("store: takes a refusal for an outage",),
    "a_cancelled_sender_does_not_affect_others": ("core: carries a batch in its leader's call", "hands out twice"),
    "a_job_receives_what_was_sent": ("answers half of a batch", "loses every third"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_each_broken_part_fails_its_checks(name: str, virtual_time: Any) -> None:
    """A broker, a store or a worker that breaks a promise fails the checks of that promise."""
    wanted = [check for check, broken in NOTICES.items() if name in broken]
    assert wanted, "nothing is expected to notice this"

    async def scenario() -> dict[str, str]:
        return {one.name: (await run_check(one, make)).standing for one in all_checks() if one.name in wanted}

    with MUTANTS[name]() as make:
        assert anyio.run(scenario, **virtual_time) == dict.fromkeys(wanted, "broken")


def test_every_check_notices_something() -> None:
    """No check is decoration: for each there is something broken that fails it."""
    assert set(NOTICES) == {one.name for one in all_checks()}
    assert all(broken for broken in NOTICES.values())


def test_queues_that_cannot_be_deleted_are_reported(virtual_time: Any) -> None:
    """Queues that an adapter does not delete are named in the certificate, which is then not kept."""
    left: list[str] = []
    [one] = [one for one in all_checks() if one.name == "an_acknowledged_job_is_never_delivered_again"]

    async def scenario() -> CheckResult:
        return await run_check(one, make, left=left)

    with MUTANTS["does not delete"]() as make:
        assert anyio.run(scenario, **virtual_time).standing == "kept"
    assert len(left) == 1
    assert left[0].startswith("queue tc")
