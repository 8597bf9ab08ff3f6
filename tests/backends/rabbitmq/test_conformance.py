"""The conformance suite on a real RabbitMQ node: every promise, on quorum and on classic queues."""

from __future__ import annotations

import fcntl

import anyio
import msgspec
import pytest

from taskcore.conformance import CLAUSES, NOT_PROMISED, CheckResult, all_checks, run_check
from taskcore.conformance.runner import Stalls

CONCURRENT_CHECKS = 12  #: checks that run at the same time

#: What RabbitMQ cannot do; each is refused at the start, and said in the docs.
NEVER = {
    "a_repeated_id_is_stored_once",
    "a_repeated_id_does_not_revive_a_dead_job",
    "concurrent_repeats_are_stored_once",
    "an_interrupted_publish_can_be_repeated",
    "a_job_at_rest_is_in_one_place",
    "the_age_of_the_oldest_job_is_known",
    "a_removed_job_is_never_delivered",
    "a_job_is_removed_or_received",
    "a_job_can_be_found",
    "a_repeated_schedule_is_stored_once",
    "a_delayed_job_is_counted_as_scheduled",
    "a_replay_makes_one_job",
    "a_replay_is_a_new_job_linked_to_the_old",
    "a_crashed_enqueue_can_be_repeated",
    "a_cancelled_job_never_starts",
    "an_interrupted_cancel_can_be_repeated",
    "an_outcome_never_changes",
    "statuses_are_the_same_words",
    "jobs_are_shown_without_being_taken",
}
#: And what classic queues cannot do besides: they do not count redeliveries.
NEVER_CLASSIC = NEVER | {
    "expired_leases_are_counted",
    "counters_never_decrease",
    "a_job_that_kills_its_worker_is_buried",
    "other_jobs_of_a_crashed_worker_are_not_blamed",
    "a_worker_without_its_lease_writes_nothing",
}

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("rabbit conformance")]


def certify(make_harness, options, checks):
    """Run these checks side by side on one node; return their findings and what they left behind."""

    async def scenario():
        findings, left = {}, []
        gate, stalls = anyio.CapacityLimiter(CONCURRENT_CHECKS), Stalls(1.0 / 3)

        async def one(check):
            async with gate:
                findings[check.name] = await run_check(check, lambda: make_harness(options), stalls=stalls, left=left)

        async with anyio.create_task_group() as watching:
            watching.start_soon(stalls.watch)
            async with anyio.create_task_group() as group:
                for check in checks:
                    group.start_soon(one, check)
            watching.cancel_scope.cancel()
        return findings, left

    return anyio.run(scenario)


@pytest.fixture(scope="module")
def certified(make_harness, tmp_path_factory, testrun_uid):
    """Run the whole suite once, also if several processes share these tests; return its findings."""

    def find(options):
        path = tmp_path_factory.getbasetemp().parent / f"rabbit-conformance-{options}-{testrun_uid}"
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not path.stat().st_size:
                path.write_bytes(msgspec.json.encode(certify(make_harness, options, all_checks())))
            return msgspec.json.decode(path.read_bytes(), type=tuple[dict[str, CheckResult], list[str]])

    return find


@pytest.fixture(scope="module")
def quorum(certified):
    """Return the suite's findings about quorum queues."""
    return certified("min_queue_age=0.1")


@pytest.fixture(scope="module")
def classic(certified):
    """Return the suite's findings about classic queues."""
    return certified("min_queue_age=0.1&queue_type=classic")


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
def test_quorum(check, quorum):
    """Quorum queues keep the promise, or the adapter says at the start that they cannot."""
    finding = quorum[0][check.name]
    expected = {"refused"} if check.name in NEVER else {"kept", "emulated"}
    assert finding.standing in expected, finding.why


@pytest.mark.parametrize("check", all_checks(), ids=lambda check: check.name)
def test_classic(check, classic):
    """Classic queues keep the promise, or the adapter says at the start that they cannot."""
    finding = classic[0][check.name]
    expected = {"refused"} if check.name in NEVER_CLASSIC else {"kept", "emulated"}
    assert finding.standing in expected, finding.why


def test_nothing_is_left(quorum, classic):
    """Whatever the suite makes on the broker can be deleted again."""
    assert (quorum[1], classic[1]) == ([], [])


def test_every_clause_is_kept(quorum):
    """For each clause that is a promise, quorum queues pass at least one check."""
    kept = {clause for finding in quorum[0].values() if finding.standing != "refused" for clause in finding.clauses}
    assert kept == set(CLAUSES) - NOT_PROMISED


def test_young_queues_keep_times_and_let_every_consumer_in(make_harness):
    """With queues that have to grow old first, as by default, times hold, and impatient senders get in."""
    checks = [check for check in all_checks() if {"C16", "C17"} & set(check.clauses) and check.name not in NEVER]
    checks += [check for check in all_checks() if check.name == "a_repeated_enqueue_reaches_a_new_queue"]
    findings, left = certify(make_harness, "min_queue_age=1", checks)
    assert {name: finding.why for name, finding in findings.items() if finding.standing == "broken"} == {}
    assert left == []
