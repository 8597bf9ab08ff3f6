"""The wire format."""

from __future__ import annotations

import random
import uuid
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskcore import InvalidName
from taskcore.envelope import (
    FIRST_ERRORS,
    FORMAT,
    ID_LIMIT,
    KEY_LIMIT,
    LAST_ERRORS,
    NAME_LIMIT,
    Envelope,
    ErrorRecord,
    Trail,
    check_name,
    decode_envelope,
    decode_trail,
    encode_envelope,
    encode_trail,
    new_id,
)
from taskcore.errors import MalformedEnvelope

text = st.text(st.characters(exclude_categories=["Cs"]))


def short(limit):
    """Make texts within a limit."""
    return st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=limit)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
ids = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]), min_size=1, max_size=ID_LIMIT)
envelopes = st.builds(
    Envelope,
    v=st.just(FORMAT),
    id=ids,
    task=short(NAME_LIMIT),
    version=st.integers(1, 10**6),
    queue=short(NAME_LIMIT),
    args=st.dictionaries(text, json_values, max_size=3).map(lambda args: msgspec.Raw(msgspec.json.encode(args))),
    enqueued_at=st.floats(0, 1e11),
    key=st.none() | short(KEY_LIMIT),
    deadline=st.none() | st.floats(0, 1e11),
    correlation_id=st.none() | ids,
    source=st.none() | short(ID_LIMIT),
    headers=st.dictionaries(text, text, max_size=3),
)
records = st.builds(
    ErrorRecord,
    type=text,
    message=text,
    when=st.floats(0, 1e11),
    worker=text,
    attempt=st.integers(1, 10**6),
    where=text,
    traceback=text,
)
trails = st.builds(
    Trail,
    attempts=st.integers(0, 10**6),
    crashes=st.integers(0, 100),
    first_lost=st.booleans(),
    copies=st.integers(0, 10**6),
    errors=st.lists(records, max_size=3).map(tuple),
    parked_since=st.none() | st.floats(0, 1e11),
    replay_of=st.none() | short(ID_LIMIT),
)


@given(envelopes)
def test_round_trip(envelope):
    """An envelope comes back as it was, its arguments byte for byte."""
    back = decode_envelope(encode_envelope(envelope))

    assert back == envelope
    assert bytes(back.args) == bytes(envelope.args)


@given(envelopes)
def test_byte_stability(envelope):
    """Decoding and encoding again gives the same bytes."""
    data = encode_envelope(envelope)

    assert encode_envelope(decode_envelope(data)) == data


def test_format_is_frozen():
    """The format is public: these bytes must stay readable and must be what we write."""
    data = (
        b'{"v":1,"id":"019a","task":"billing.charge","version":2,"queue":"billing","args":{"order_id":7},'
        b'"enqueued_at":1767225600.25,"key":"7","headers":{"tenant":"a"}}'
    )

    assert encode_envelope(decode_envelope(data)) == data


def test_a_shell_script_can_write_it():
    """Only five fields are needed, in any order and with any white space."""
    envelope = decode_envelope(b'{ "task": "greet", "id": "1", "args": {"name": "Ada"},\n "enqueued_at": 0, "v": 1 }')

    assert envelope.queue == "default"
    assert envelope.version == 1


@given(st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_malformed(data):
    """Foreign bytes never cause any other exception."""
    with suppress(MalformedEnvelope):
        assert isinstance(decode_envelope(data), Envelope)


@given(envelopes, st.data())
def test_damaged_envelopes(envelope, data):
    """An envelope with one byte changed is an envelope or malformed, never another exception."""
    encoded = bytearray(encode_envelope(envelope))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))

    with suppress(MalformedEnvelope):
        decode_envelope(bytes(encoded))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[" * 10_000,
        b"{" * 10_000,
        b'{"v":1}',
        b"\xff\xfe",
        b'{"v":NaN}',
        b'{"v":' + b"9" * 100_000 + b"}",
    ],
)
def test_hostile_bytes(data):
    """Empty, truncated, deeply nested, not UTF-8, enormous numbers: malformed, at once."""
    with pytest.raises(MalformedEnvelope):
        decode_envelope(data)


def test_newer_format():
    """A format from the future is malformed, and the text says what to upgrade."""
    with pytest.raises(MalformedEnvelope, match="upgrade the workers"):
        decode_envelope(b'{"v":2,"id":"1","task":"t","args":{},"enqueued_at":0}')


@given(trails)
def test_trail_round_trip(trail):
    """A trail comes back as it was."""
    assert decode_trail(encode_trail(trail)) == trail


def test_no_trail_is_no_bytes():
    """A job to which nothing has happened carries no trail at all."""
    assert encode_trail(Trail()) == b""
    assert decode_trail(b"") == Trail()


@given(st.binary(max_size=200))
def test_any_bytes_are_a_trail_or_malformed(data):
    """Foreign bytes never cause any other exception here either."""
    with suppress(MalformedEnvelope):
        assert isinstance(decode_trail(data), Trail)


def record(attempt: int) -> ErrorRecord:
    """Make an error of that attempt."""
    return ErrorRecord(type="E", message=str(attempt), when=0.0, worker="w", attempt=attempt, traceback="…")


def test_trail_is_bounded():
    """A trail keeps the first 5 and the last 20 errors, counts them all, and only the latest traceback."""
    trail = Trail()
    for attempt in range(1, 101):
        trail = trail.with_error(record(attempt))

    kept = [error.attempt for error in trail.errors]
    assert trail.attempts == 100
    assert kept == [*range(1, FIRST_ERRORS + 1), *range(101 - LAST_ERRORS, 101)]
    assert [bool(error.traceback) for error in trail.errors] == [False] * 24 + [True]


def test_ids_are_uuid7():
    """Ids are valid UUIDs of version 7 that sort by time and do not repeat."""
    ids = [new_id() for _ in range(10_000)]

    parsed = uuid.UUID(ids[0])
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert len(set(ids)) == len(ids)
    assert [text[:13] for text in ids] == sorted(text[:13] for text in ids)


def test_ids_do_not_follow_the_users_seed():
    """A program that seeds `random` does not make two processes invent the same ids."""
    random.seed(0)
    first = new_id()[19:]
    random.seed(0)

    assert new_id()[19:] != first


@given(st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,127}", fullmatch=True))
def test_good_names(name):
    """Lower-case letters, digits, _ . - make a name, up to 128 characters."""
    assert check_name("queue", name) == name


@given(st.text(max_size=5).map(lambda text: f"a{text}*>: \r\n{{"))
def test_bad_names(name):
    """Nothing that means something in a subject, a routing key or a key name gets through."""
    with pytest.raises(InvalidName):
        check_name("queue", name)


def test_bad_name_suggests_a_good_one():
    """The refusal shows a name that would do."""
    with pytest.raises(InvalidName, match=r'"my-tasks\.send"'):
        check_name("task", "My Tasks.Send")
