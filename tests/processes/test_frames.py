"""The protocol between a worker and its processes, and the lines of their output: no process needed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore.control import Reject, RetryLater, Snooze
from taskcore.lifecycle import Deferred, Raised, Returned, Unencodable
from taskcore.policy import Retry
from taskcore.processes import frames
from taskcore.processes.frames import FrameError, JobRaised, JobReturned, LogLine, encode_frame, reader_of_answers
from taskcore.processes.outcomes import outcome_of
from taskcore.processes.output import LONGEST_LINE, LineSplitter
from taskcore.processes.process import ProcessError, how

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MESSAGES = st.one_of(
    st.builds(JobReturned, st.binary(max_size=200)),
    st.builds(LogLine, TEXT, st.integers(0, 60), TEXT, TEXT),
    st.builds(JobRaised, st.just("error"), TEXT, TEXT, TEXT, TEXT, st.none() | st.booleans(), st.none() | st.binary()),
)


def in_portions(data, cuts):
    """Cut the same bytes into pieces."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.lists(MESSAGES, max_size=6), st.lists(st.integers(0, 10_000), max_size=8))
def test_messages_survive_any_portions(messages, cuts):
    """What goes in comes out, equal and in order, however the bytes are cut."""
    data = b"".join(encode_frame(message) for message in messages)
    reader = reader_of_answers()

    assert [message for portion in in_portions(data, cuts) for message in reader.feed(portion)] == messages


@given(st.lists(st.binary(max_size=300), max_size=5))
def test_any_bytes_are_messages_or_a_frame_error(portions):
    """Garbage never raises anything else, and never makes anything but a message."""
    reader = reader_of_answers()
    try:
        found = [message for portion in portions for message in reader.feed(portion)]
    except FrameError:
        return
    assert all(isinstance(message, (JobReturned, JobRaised, LogLine)) for message in found)


@given(st.binary(min_size=1, max_size=300))
def test_any_body_is_a_message_or_a_frame_error(body):
    """Bytes behind a right head are a message or a frame error."""
    try:
        [message] = reader_of_answers().feed(len(body).to_bytes(4, "big") + body)
    except FrameError:
        return
    assert isinstance(message, (JobReturned, JobRaised, LogLine))


def test_a_frame_has_a_limit(monkeypatch):
    """A message beyond it is refused where it is made, and by its head alone where it is read."""
    monkeypatch.setattr(frames, "BODY_LIMIT", 100)

    with pytest.raises(FrameError, match="the limit is 100"):
        encode_frame(JobReturned(b"x" * 101))
    with pytest.raises(FrameError, match="the limit is 100"):
        list(reader_of_answers().feed((101).to_bytes(4, "big")))


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=8))
def test_lines_do_not_depend_on_portions(data, cuts):
    """Output in any pieces gives the same lines; all of them can be printed, none is too long."""
    whole, pieces = LineSplitter(), LineSplitter()
    lines = [*whole.feed(data), *whole.flush()]

    assert [line for portion in in_portions(data, cuts) for line in pieces.feed(portion)] + [*pieces.flush()] == lines
    assert all(line.isprintable() for line in lines)


def test_a_line_without_end_takes_bounded_memory():
    """Of a line the beginning is kept, and how much is missing is said."""
    splitter = LineSplitter()
    for _ in range(100):
        assert list(splitter.feed(b"x" * LONGEST_LINE)) == []
        assert len(splitter._kept) <= LONGEST_LINE

    assert list(splitter.flush()) == [f"{'x' * LONGEST_LINE}… and {99 * LONGEST_LINE} bytes more"]
    assert list(splitter.flush()) == []


# ── outcomes ──


def outcome(answer, *, keyed=False):
    """Return the outcome of an answer."""
    return outcome_of(answer, when=1.0, worker="w", attempt=2, keyed=keyed)


def raised(kind, **more):
    """Make an answer of this kind."""
    return JobRaised(kind, "shop.Closed", "on Sundays", "shop.py:3 in sell", "Traceback …", **more)


def test_a_result_has_to_be_json():
    """Only bytes that can stand in an outcome become a result."""
    assert outcome(JobReturned(b'{"a":[1]}')) == Returned(b'{"a":[1]}')
    for data in (b"", b"{", b"[1", b"nul", b"1 2", b"\xff"):
        with pytest.raises(ProcessError, match="not JSON"):
            outcome(JobReturned(data))


def test_signals_of_a_function_keep_their_fields():
    """Times and reasons arrive; a time that is none is an error of the process."""
    assert outcome(raised("snooze", after=3.0)).error.after == 3.0
    later = outcome(raised("retry_later", after=4.0, why="asleep")).error
    assert (type(later), later.after, later.why) == (RetryLater, 4.0, "asleep")
    assert outcome(raised("reject", why="over")).error.reason == "over"
    assert isinstance(outcome(raised("unencodable")), Unencodable)
    for after in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ProcessError, match="impossible snooze"):
            outcome(raised("snooze", after=after))


def test_a_lost_key_is_no_failure():
    """A transaction that another holder of the key undid is asked again; without a key it is an error."""
    assert isinstance(outcome(raised("lease_lost", why="done by another"), keyed=True), Deferred)
    assert isinstance(outcome(raised("lease_lost", why="done by another")), Raised)


@pytest.mark.parametrize("retryable", [True, False])
def test_the_process_decides_whether_an_error_is_retried(retryable):
    """The policy takes over what was found in the process, whatever the worker's own classes say."""
    failed = outcome(raised("error", retryable=retryable, declared=b'{"type":"Closed"}'))

    assert isinstance(failed, Raised)
    assert not isinstance(failed.error, (Reject, Snooze, RetryLater))
    assert failed.declared == b'{"type":"Closed"}'
    assert (failed.record.type, failed.record.attempt, failed.record.where) == ("shop.Closed", 2, "shop.py:3 in sell")
    for retry in (Retry(), Retry(on=(KeyError,)), Retry(give_up_on=(Exception,))):
        assert retry.retries(failed.error) is retryable


def test_how_a_process_ended():
    """Exit codes and signals are named."""
    assert how(3) == "exited with code 3"
    assert how(-11) == "was killed by SIGSEGV (signal 11)"
    assert how(-99) == "was killed by signal 99"
