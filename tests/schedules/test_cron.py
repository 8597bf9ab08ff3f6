"""Cron expressions are read, told and refused: which field, which mistake, what was meant."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from taskcore.errors import InvalidSetting
from taskcore.schedules.cron import EPOCH, MACROS, parse_cron


def walls(expression: str, start: str, number: int) -> list[str]:
    """List the next wall times after a start."""
    cron, found = parse_cron(expression), []
    wall = (datetime.fromisoformat(start) - EPOCH) // timedelta(seconds=1)
    for _ in range(number):
        wall = cron.next(wall)
        found.append((EPOCH + timedelta(seconds=wall)).strftime("%Y-%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("30 2 * * *", ["2027-01-01 02:30", "2027-01-02 02:30"]),
        ("*/25 9 * * MON-FRI", ["2027-01-01 09:00", "2027-01-01 09:25", "2027-01-01 09:50", "2027-01-04 09:00"]),
        ("0 8 * JAN,JUL 1-5", ["2027-01-01 08:00", "2027-01-04 08:00"]),
        ("0 0 L * *", ["2027-01-31 00:00", "2027-02-28 00:00"]),
        ("0 0 LW * *", ["2027-01-29 00:00", "2027-02-26 00:00"]),
        ("0 6 * * MON#1", ["2027-01-04 06:00", "2027-02-01 06:00"]),
        ("0 6 * * 5L", ["2027-01-29 06:00", "2027-02-26 06:00"]),
        ("0 0 13 * 5", ["2027-01-01 00:00", "2027-01-08 00:00", "2027-01-13 00:00"]),
        ("0 0 * * 7", ["2027-01-03 00:00", "2027-01-10 00:00"]),
        ("@hourly", ["2027-01-01 00:00", "2027-01-01 01:00"]),
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
    ],
)
def test_wall_times(expression: str, expected: list[str]) -> None:
    """Numbers, names, ranges, steps, lists, L, LW, # and macros name the times that cron gives them."""
    assert walls(expression, "2026-12-31 23:59", len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "field", "meant"),
    [
        ("30 2 * *", "4 fields", "minute, hour"),
        ("0 30 2 * * *", "6 fields", '"30 2 * * *"'),
        ("60 * * * *", "minute: 60", "write 0 for the full hour"),
        ("0 24 * * *", "hour: 24", "write 0 for the full day"),
        ("0 0 32 * *", "day of the month: 32", "1 to 31"),
        ("0 0 * 13 *", "month: 13", "1 to 12"),
        ("0 0 * * 8", "day of the week: 8", "0 to 7"),
        ("0 0 * JANUARY *", "month: 'JANUARY'", "JAN"),
        ("0 0 * * FIR", "day of the week: 'FIR'", "FRI"),
        ("0 0 * * FRI-MON", "runs backwards", "FRI-SAT,SUN-MON"),
        ("*/0 * * * *", "minute: the step", "*/5"),
        ("*/x * * * *", "minute: the step", "*/5"),
        ("0 0 ? * *", "day of the month: '?'", "write *"),
        ("0 0 * * MON#6", "weeks 1 to 5", "MON#1"),
        ("0,,5 * * * *", "minute: ''", "0 to 59"),
        ("0 0 30 2 *", "no month that it names", '"L"'),
        ("0 0 31 4,6 *", "no month that it names", '"L"'),
        ("@dayly", "no macro @dayly", '"@daily"'),
        ("@reboot", "no macro @reboot", "@"),
        ("L * * * *", "minute: 'L'", "0 to 59"),
        ("٣ * * * *", "minute:", "0 to 59"),
    ],
)
def test_mistakes(expression: str, field: str, meant: str) -> None:
    """A mistake is refused with its field, what is wrong, and what was probably meant."""
    with pytest.raises(InvalidSetting) as refused:
        parse_cron(expression)
    assert field in str(refused.value)
    assert meant in str(refused.value)


@pytest.mark.parametrize("given", ["", "  ", None, 5])
def test_what_is_no_expression(given) -> None:
    """What is not a text, or an empty one, is refused with an example."""
    with pytest.raises(InvalidSetting, match="30 2"):
        parse_cron(given)


def test_expressions_are_told_in_english() -> None:
    """An expression can be told in words; a macro as the expression that it stands for."""
    assert parse_cron("30 2 * * *").explain() == "At 02:30 every day"
    assert "Monday" in parse_cron("0 9 * * 1").explain()
    assert all(parse_cron(macro).explain() for macro in MACROS)


def test_counting_equals_walking() -> None:
    """Counted wall times are those that a walk finds, also where a day is not whole."""
    for expression in ("*/7 3-5 * * *", "0 0 L * *", "* * * * *", "15 6 1 * 1"):
        cron = parse_cron(expression)
        for after, until in ((0, 86_400), (1_000, 700_000), (86_399, 86_400), (5_000_000, 8_100_000)):
            wall, number = after, 0
            while (wall := cron.next(wall)) is not None and wall <= until:
                number += 1
            assert cron.count(after, until) == number
