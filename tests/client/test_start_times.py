"""When a call is to start: a moment is the same in every time zone, and an ambiguous one is refused (C16)."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from taskcore import App
from taskcore.errors import InvalidSetting

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture
def delay_until():
    """Return the delay that the broker gets for a call at a time."""
    app = App("memory://")

    @app.task(name="work")
    async def work() -> None: ...

    return lambda at: work.using(at=at).call().options.delay


@pytest.mark.parametrize("zone", [UTC, BERLIN, ZoneInfo("America/New_York"), timezone(timedelta(hours=14))], ids=str)
def test_a_time_after_a_change_of_the_clocks(delay_until, zone):
    """The next change from or to summer time makes nothing an hour early or late (F59)."""
    for days in range(10, 400, 30):
        at = datetime.now(zone) + timedelta(days=days)
        assert delay_until(at) == pytest.approx(at.timestamp() - time.time(), abs=5.0), at


@pytest.mark.parametrize("fold", [0, 1])
@pytest.mark.parametrize(("month", "day"), [(3, 25), (10, 28)], ids=["a time that is not", "a time that is twice"])
def test_times_that_no_clock_shows_once(delay_until, month, day, fold):
    """A time in the gap of a change, or in the hour that comes twice, is what Python says that it is (F59)."""
    at = datetime(2040, month, day, 2, 30, tzinfo=BERLIN, fold=fold)
    assert delay_until(at) == pytest.approx(at.timestamp() - time.time(), abs=5.0)


def test_times_at_the_edge(delay_until):
    """What has passed is now; the calendar's last day is a delay like others; without a zone it is refused (F59)."""
    assert delay_until(datetime.now(BERLIN) - timedelta(days=200)) == 0.0
    assert delay_until(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))) == 0.0
    assert delay_until(datetime(9999, 12, 31, tzinfo=timezone(timedelta(hours=-12)))) > 2e11
    with pytest.raises(InvalidSetting, match="has no time zone"):
        delay_until(datetime(2040, 1, 1))  # noqa: DTZ001 - that is the mistake
