"""The deciding function: each policy's table, and that what a preview tells is what fires."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import islice, pairwise

import msgspec
import pytest

from taskcore.schedules.decide import CONFIRM_TIMEOUT, TICKS_PER_ROUND, decide
from taskcore.schedules.record import PackedCall, Policies, ScheduleRecord, decode_record, encode_record
from taskcore.schedules.timetable import Timetable, make_timetable, upcoming

START = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * 1000
MINUTE = 60_000


def make(*, policies: dict | None = None, timing: dict | None = None, **fields) -> ScheduleRecord:
    """Make a record that was written at START; every ten minutes unless another timetable is given."""
    timetable = make_timetable("s", timing or {"every": "10m", "phase": 0})
    return ScheduleRecord(
        id="s",
        origin="put",
        timetable=timetable,
        policies=Policies(**(policies or {})),
        call=PackedCall(task="work", **fields.pop("call", {})),
        since=START,
        upto=START,
        **fields,
    )


def settle(record: ScheduleRecord) -> ScheduleRecord:
    """Confirm all claims."""
    return msgspec.structs.replace(record, open=())


def play(record: ScheduleRecord, now: int, until: int, *, over=lambda now: True, confirm: bool = True):
    """Look whenever the function asks for it; return what fired as (when, instant), and the last record."""
    fired = []
    while now is not None and now <= until:
        decision = decide(record, now, last_over=over(now))
        record = decode_record(encode_record(decision.record))
        fired += [(now, claim.at) for claim in decision.fire]
        if confirm:
            record = settle(record)
        assert decision.look is None or decision.look > now, "a look in the past would be an endless loop"
        now = decision.look
    return fired, record


HOURS_3 = START + 180 * MINUTE + 59_000  #: nothing is fresh


@pytest.mark.parametrize(
    ("policies", "number", "missed"),
    [
        ({"missed": "skip"}, 0, 18),
        ({"missed": "once"}, 1, 17),
        ({"missed": "all", "overlap": "allow"}, 18, 0),
        ({"missed": "all"}, 18, 0),
        ({"missed": "all", "overlap": "queue"}, 18, 0),
        ({"missed": "all", "limit": 5, "overlap": "allow"}, 5, 13),
        ({"missed": "all", "within": 61 * MINUTE, "overlap": "allow"}, 7, 11),
    ],
)
def test_after_an_outage_of_three_hours(policies: dict, number: int, missed: int) -> None:
    """Of 18 missed instants none, the newest, all or a few fire, oldest first; the record counts the rest."""
    fired, record = play(make(policies=policies), HOURS_3, HOURS_3 + 5 * MINUTE)
    instants = [at for _, at in fired]
    assert instants == [START + 10 * MINUTE * n for n in range(19 - number, 19)]
    assert (record.fired, record.missed) == (number, missed)


def test_what_is_late_within_the_grace_is_not_missed() -> None:
    """Every instant that is late by no more than the grace fires, whatever the policy for missed ones says."""
    for missed in ("once", "skip", "all"):
        record = make(timing={"every": 1, "phase": 0}, policies={"missed": missed, "overlap": "allow"})
        fired, record = play(record, START + 20_000, START + 30_000)
        assert [at for _, at in fired] == [START + 1000 * n for n in range(1, 31)]
        assert record.missed == 0


def test_skip_passes_over_what_would_overlap() -> None:
    """Under skip no instant fires while the job before runs, and each one that is passed over is counted."""
    busy = range(START + 10 * MINUTE + 1, START + 35 * MINUTE)
    fired, record = play(make(), START + 10 * MINUTE, START + 60 * MINUTE, over=lambda now: now not in busy)
    assert [at for _, at in fired] == [START + MINUTE * n for n in (10, 40, 50, 60)]
    assert (record.overlapped, record.missed) == (2, 0)


def test_missed_ones_wait_for_each_other() -> None:
    """Under skip with missed="all" the missed instants wait for the job before, and none is passed over."""
    ended = {"at": 0}

    def over(now: int) -> bool:
        if now >= ended["at"]:
            ended["at"] = now + 5_000
            return True
        return False

    fired, record = play(make(policies={"missed": "all"}), HOURS_3, HOURS_3 + 3 * MINUTE, over=over)
    assert [at for _, at in fired] == [START + 10 * MINUTE * n for n in range(1, 19)]
    assert all(later[0] - sooner[0] >= 5_000 for sooner, later in pairwise(fired))
    assert (record.overlapped, record.missed) == (0, 0)


def test_queue_lets_one_wait() -> None:
    """Under queue the oldest instant waits and fires within a second after the job; the others are passed over."""
    busy = range(START + 10 * MINUTE + 1, START + 45 * MINUTE)
    record = make(policies={"overlap": "queue"})
    fired, record = play(record, START + 10 * MINUTE, START + 49 * MINUTE, over=lambda now: now not in busy)
    assert [at for _, at in fired] == [START + 10 * MINUTE, START + 20 * MINUTE]
    assert fired[1][0] - START - 45 * MINUTE <= 1_500
    assert record.overlapped == 2


def test_latest_lets_the_newest_wait_and_cancels() -> None:
    """Under latest the newest instant waits, and the job before is cancelled if it has not started."""
    first = decide(make(policies={"overlap": "latest"}), START + 10 * MINUTE, last_over=True)
    second = decide(settle(first.record), START + 20 * MINUTE, last_over=False)
    assert second.cancel == first.fire[0].id
    third = decide(second.record, START + 30 * MINUTE, last_over=False)
    assert third.record.waiting == START + 30 * MINUTE
    assert third.record.overlapped == 1
    fourth = decide(third.record, START + 30 * MINUTE + 1_000, last_over=True)
    assert [claim.at for claim in fourth.fire] == [START + 30 * MINUTE]


def test_a_stale_tick_holds_up_nothing() -> None:
    """A tick whose job never ends holds up the next one no longer than stale_after."""
    record = make(policies={"stale_after": 25 * MINUTE})
    fired, _ = play(record, START + 10 * MINUTE, START + 60 * MINUTE, over=lambda now: False)
    assert [at for _, at in fired] == [START + 10 * MINUTE, START + 40 * MINUTE]


def test_open_claims_are_published_again() -> None:
    """An open claim is published again once it is old enough, by any instance; and the next instant waits for it."""
    first = decide(make(), START + 10 * MINUTE, last_over=True)
    early = decide(first.record, START + 10 * MINUTE + 1, last_over=True)
    assert early.again == ()
    assert early.record is first.record
    assert early.look == START + 10 * MINUTE + CONFIRM_TIMEOUT
    late = decide(first.record, START + 10 * MINUTE + CONFIRM_TIMEOUT, last_over=True)
    assert late.again == first.fire


def test_at_most_once_is_never_published_again() -> None:
    """An open claim of a task that runs at most once is dropped in the end, and counted as lost."""
    first = decide(make(call={"at_most_once": True}), START + 10 * MINUTE, last_over=True)
    for seconds in (5, 59, 60, 600):
        later = decide(first.record, START + 10 * MINUTE + seconds * 1000, last_over=True)
        assert later.again == ()
        assert later.record.lost == (seconds >= 60)


def test_pausing() -> None:
    """A paused schedule fires nothing, but what it has claimed before is published."""
    first = decide(make(), START + 10 * MINUTE, last_over=True)
    paused = msgspec.structs.replace(first.record, paused=START + 10 * MINUTE + 1)
    later = decide(paused, START + 50 * MINUTE, last_over=True)
    assert (later.fire, later.again) == ((), first.fire)
    assert decide(settle(paused), START + 50 * MINUTE, last_over=True).look is None


def test_a_retired_schedule_fires_nothing() -> None:
    """A retired schedule fires nothing, and an open claim is dropped and counted."""
    first = decide(make(), START + 10 * MINUTE, last_over=True)
    retired = decide(msgspec.structs.replace(first.record, retired=1), START + 50 * MINUTE, last_over=True)
    assert (retired.fire, retired.again, retired.look, retired.record.open) == ((), (), None, ())
    assert retired.record.lost == 1


def test_times_and_end() -> None:
    """Exactly so many ticks fire, and none after the end."""
    fired, record = play(make(timing={"every": "10m", "phase": 0, "times": 3}), START, START + 600 * MINUTE)
    assert len(fired) == record.fired == 3
    timing = {"cron": "*/10 * * * *", "end": datetime(2027, 1, 1, 0, 35, tzinfo=UTC)}
    fired, _ = play(make(timing=timing), START, START + 600 * MINUTE)
    assert [at for _, at in fired] == [START + n * 10 * MINUTE for n in (1, 2, 3)]


def test_few_claims_at_a_time() -> None:
    """A schedule claims a bounded number of ticks at a time, so its record stays small."""
    record = make(timing={"every": 1, "phase": 0}, policies={"missed": "all", "overlap": "allow"})
    decision = decide(record, START + 100_000, last_over=True)
    assert len(decision.fire) == TICKS_PER_ROUND
    assert decide(decision.record, START + 100_001, last_over=True).fire == ()


def test_an_outage_of_a_year_is_decided_at_once() -> None:
    """The number of missed instants does not matter for the time that a decision takes."""
    for timing in ({"every": 1, "phase": 0}, {"cron": "* * * * *", "tz": "Europe/Berlin"}):
        decision = decide(make(timing=timing), START + 365 * 86_400_000, last_over=True)
        assert decision.record.missed > 500_000


def random_timing(dice: random.Random) -> dict:
    """Make any timetable."""
    kind = dice.choice(["cron", "every"])
    timing: dict = {"every": dice.choice([1, 7, 90, "1h", "1d"])}
    if kind == "cron":
        expression = dice.choice(
            ["* * * * *", "*/7 * * * *", "30 2 * * *", "0 9-17 * * 1-5", "0 0 1 * *", "15 1,2 * * *"]
        )
        timing = {
            "cron": expression,
            "tz": dice.choice(["UTC", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe"]),
        }
    if dice.random() < 0.5:
        timing["spread"] = dice.choice(["1s", "5m"])
    if dice.random() < 0.3:
        timing["times"] = dice.randrange(1, 20)
    return timing


@pytest.mark.parametrize("seed", range(60))
def test_the_preview_is_what_fires(seed: int) -> None:
    """For any timetable the instants of the preview fire, in order, each once and within its spread."""
    dice = random.Random(seed)
    start = START + dice.randrange(365 * 86_400) * 1000
    record = msgspec.structs.replace(make(timing=random_timing(dice)), since=start, upto=start)
    expected = list(islice(upcoming(record.timetable, start), min(record.timetable.times or 30, 30)))
    spread = record.timetable.spread
    fired, _ = play(record, start, expected[-1] + spread)
    assert [at for _, at in fired][: len(expected)] == expected
    assert all(0 <= when - at <= spread for when, at in fired)
    assert Timetable() == msgspec.json.decode(b"{}", type=Timetable)


@pytest.mark.parametrize("seed", range(100))
def test_random_looks(seed: int) -> None:
    """With late, early and repeated looks no instant fires twice, and each is fired or counted."""
    dice = random.Random(seed)
    policies = {
        "missed": dice.choice(["once", "skip", "all"]),
        "overlap": dice.choice(["skip", "allow", "queue", "latest"]),
        "limit": dice.choice([1, 3, 100]),
        "grace": dice.choice([0, 5_000, 30_000]),
    }
    timing = {"every": dice.choice([1, 5, 60]), "spread": dice.choice([None, "2s"])}
    record, now, fired = make(policies=policies, timing=timing), START, []
    for _ in range(300):
        now += dice.choice([0, 300, 1_000, 4_000, 100_000])
        decision = decide(record, now, last_over=dice.random() < 0.5)
        record = decision.record
        fired += [claim.at for claim in decision.fire]
        if dice.random() < 0.8:
            record = settle(record)
    assert len(fired) == len(set(fired)) == record.fired
    assert fired == sorted(fired)
    every = record.timetable.every
    decided = (record.upto - record.timetable.phase) // every - (START - record.timetable.phase) // every
    assert decided == record.fired + record.missed + record.overlapped + (record.waiting is not None)
