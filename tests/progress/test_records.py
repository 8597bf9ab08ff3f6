"""What stands in the store: bounded lines, rates that can be reported, and records that are none of ours."""

from __future__ import annotations

import pytest

from taskcore import UnreadableRecord
from taskcore.progress.record import (
    FIRST_BYTES,
    FIRST_LINES,
    LAST_BYTES,
    LAST_LINES,
    LINE_LIMIT,
    KeptLines,
    StoredLine,
    StoredLog,
    StoredProgress,
    clean_line,
    decode_log,
    decode_progress,
    encode_log,
    encode_progress,
    seen_progress,
)


def line(text, mark="a"):
    """Make a line."""
    return StoredLine(1.0, 1, mark, text)


def texts(log):
    """Return the texts of the lines."""
    return [one.text for one in (*log.first, *log.last)]


def test_a_hundred_megabytes_leave_the_first_and_the_last_lines():
    """A log is bounded in number and size, and what is left out is counted."""
    kept, text = KeptLines(), "x" * 1_000
    for number in range(100_000):
        kept.add(line(f"{number} {text}"))
    stored = kept.stored()
    assert len(encode_log(stored)) < 2 * (FIRST_BYTES + LAST_BYTES)
    assert texts(stored)[0].startswith("0 ")
    assert texts(stored)[-1].startswith("99999 ")
    assert stored.left_out == 100_000 - len(texts(stored))


def test_many_short_lines_are_bounded_by_their_number():
    """Empty lines cost no bytes, and are bounded all the same."""
    kept = KeptLines(line("") for _ in range(10_000))
    assert len(texts(kept.stored())) == FIRST_LINES + LAST_LINES
    assert kept.left_out == 10_000 - FIRST_LINES - LAST_LINES


def test_lines_of_several_starts_stay():
    """Lines of a start follow those of others; its own, whose answer was lost, are not there twice."""
    earlier = KeptLines([line("one", "a"), line("two", "a")]).stored()
    mine = KeptLines([line("three", "b")]).behind(earlier, "b")
    assert texts(mine.stored()) == ["one", "two", "three"]
    mine.add(line("four", "b"))
    again = mine.behind(KeptLines([line("one"), line("two"), line("three", "b")]).stored(), "b")
    assert texts(again.stored()) == ["one", "two", "three", "four"]
    assert again.left_out == 0


def test_what_is_left_out_is_counted_once():
    """Merging with a longer log adds its gap, and a second merge with the same does not."""
    earlier = StoredLog([line("one")], [line("nine")], 7)
    mine = KeptLines([line("ten", "b")]).behind(earlier, "b")
    assert mine.left_out == 7
    assert mine.behind(mine.stored(), "b").left_out == 7


def test_a_line_is_one_line():
    """Line ends, escapes of terminals, passwords in URLs and texts without end are not kept as they are."""
    assert clean_line("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
    assert "hunter2" not in clean_line("connecting to redis://user:hunter2@host:6379/0")
    assert clean_line("\ud800") == "\\ud800"
    long = clean_line("y" * (LINE_LIMIT + 5))
    assert long == "y" * LINE_LIMIT + "… (5 characters more)"


@pytest.mark.parametrize(
    ("stored", "rate", "remaining", "fraction"),
    [
        (StoredProgress(value=10, total=40, at=10.0, since=5.0), 2.0, 15.0, 0.25),
        (StoredProgress(value=30, total=40, start=20, at=10.0, since=5.0), 2.0, 5.0, 0.75),
        (StoredProgress(value=10, at=10.0, since=5.0), 2.0, None, None),
        (StoredProgress(value=0, total=40, at=10.0, since=5.0), None, None, 0.0),
        (StoredProgress(value=10, total=0, at=5.0, since=5.0), None, None, None),
        (StoredProgress(value=50, total=40, at=10.0, since=5.0), 10.0, 0.0, 1.0),
    ],
)
def test_rate_and_rest(stored, rate, remaining, fraction):
    """The rate is that of this attempt alone, and None where it cannot be told."""
    seen = seen_progress(decode_progress(encode_progress(stored)))
    assert (seen.rate, seen.remaining, seen.fraction) == (rate, remaining, fraction)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b'{"value":"x"}', b'{"first":3}', b"[" * 100_000])
def test_records_of_others_are_refused(data):
    """Bytes that are no record of ours are an error with a name, never a crash."""
    for decode in (decode_progress, decode_log):
        if (decode, data) == (decode_progress, b'{"first":3}') or (decode, data) == (decode_log, b'{"value":"x"}'):
            continue  # fields of newer versions are ignored
        with pytest.raises(UnreadableRecord):
            decode(data)
