"""AMQP frames, packed and parsed by hand, against pamqp as an independent implementation of the protocol."""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, frame, header

from taskcore.connections.amqp import frames
from taskcore.connections.amqp.channel import FilteredChannel

channels = st.integers(1, 65_535)
tags = st.integers(1, 2**63 - 1)
words = st.text(max_size=40)
names = st.text(min_size=1, max_size=40)
numbers = st.integers(-(2**63), 2**63 - 1)
moments = st.integers(0, 4_000_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
#: What other programs put into headers; of the second line nothing is read.
read = st.one_of(numbers, words, st.booleans(), moments)
skipped = st.one_of(
    st.none(), st.lists(words, max_size=3), st.dictionaries(names, words, max_size=3), st.just(Decimal(7))
)


def unpack(data: bytes) -> list[tuple[int, Any]]:
    """Let pamqp decode frames: the channel and the frame of each."""
    found = []
    while data:
        size, channel, decoded = frame.unmarshal(data)
        found.append((channel, decoded))
        data = data[size:]
    return found


def header_frame(channel: int, size: int = 0, **properties: Any) -> bytes:
    """Let pamqp encode the properties of a message."""
    made = header.ContentHeader(body_size=size, properties=commands.Basic.Properties(**properties))
    return frame.marshal(made, channel)


def payload(data: bytes) -> bytes:
    """Return the payload of a single frame."""
    [(_, _, start, end)] = frames.split_frames(data + b"\x00")
    return data[start:end]


# ── packing ──────────────────────────────────────────────────────────────────────────────────────


@given(
    channel=channels, exchange=words, key=words, message_id=st.from_regex(r"[0-9a-f.]{1,40}", fullmatch=True),
    headers=st.dictionaries(names, numbers | words, max_size=5), content=st.binary(max_size=9_000),
)  # fmt: skip
def test_a_packed_message_is_what_another_program_reads(channel, exchange, key, message_id, headers, content):
    """Exchange, key, id, headers and body arrive as they were given; the message is persistent and mandatory."""
    packer = frames.MessagePacker(channel, exchange, key, frame_max=4096)
    data = packer.pack(message_id.encode(), headers, content)
    assert all(end - start + 8 <= 4096 for _, _, start, end in frames.split_frames(data + b"\x00"))
    (first, publish), (second, head), *rest = unpack(data)
    assert {first, second, *(number for number, _ in rest)} == {channel}
    assert (publish.exchange, publish.routing_key, publish.mandatory) == (exchange, key, True)
    assert head.body_size == len(content)
    assert (head.properties.delivery_mode, head.properties.message_id) == (2, message_id)
    assert (head.properties.headers or {}) == headers
    assert b"".join(part.value for _, part in rest) == content


@given(channel=channels, tag=tags, flag=st.booleans(), again=st.booleans(), name=words, prefetch=st.integers(0, 65_535))
def test_packed_methods_are_what_another_program_reads(channel, tag, flag, again, name, prefetch):
    """Each method that is packed by hand has the meaning that its name says."""
    data = b"".join(
        (
            frames.ack(channel, tag, multiple=flag),
            frames.nack(channel, tag, multiple=flag, requeue=again),
            frames.qos(channel, prefetch),
            frames.cancel(channel, name),
        )
    )
    numbers, [ack, nack, qos, cancel] = zip(*unpack(data), strict=True)
    assert set(numbers) == {channel}
    assert isinstance(ack, commands.Basic.Ack)
    assert (ack.delivery_tag, ack.multiple) == (tag, flag)
    assert isinstance(nack, commands.Basic.Nack)
    assert (nack.delivery_tag, nack.multiple, nack.requeue) == (tag, flag, again)
    assert isinstance(qos, commands.Basic.Qos)
    assert (qos.prefetch_size, qos.prefetch_count, qos.global_) == (0, prefetch, False)
    assert isinstance(cancel, commands.Basic.Cancel)
    assert (cancel.consumer_tag, cancel.nowait) == (name, True)


def test_a_packed_heartbeat_is_one():
    """The heartbeat that the filter gives to the library is one for another program, too."""
    [(channel, decoded)] = unpack(frames.HEARTBEAT)
    assert (channel, decoded.name) == (0, "Heartbeat")


# ── parsing ──────────────────────────────────────────────────────────────────────────────────────


@given(
    known=st.dictionaries(names, read, max_size=5),
    foreign=st.dictionaries(names, skipped, max_size=5),
    message_id=words,
    others=st.fixed_dictionaries(
        {},
        optional={
            "content_type": words,
            "content_encoding": words,
            "delivery_mode": st.integers(1, 2),
            "priority": st.integers(0, 255),
            "correlation_id": words,
            "reply_to": words,
            "expiration": st.just("1000"),
            "timestamp": moments,
            "message_type": words,
            "user_id": words,
            "app_id": words,
        },
    ),
)
def test_messages_of_another_program_are_read(known, foreign, message_id, others):
    """Numbers, texts and the id are read, whatever other kinds and properties stand around them."""
    headers = foreign | known
    found = frames.read_properties(
        payload(header_frame(1, headers=headers or None, message_id=message_id or None, **others))
    )
    expected: dict[bytes, Any] = {}
    for name, value in known.items():
        plain = int(value.timestamp()) if isinstance(value, datetime) else value
        expected[name.encode()] = plain.encode() if isinstance(plain, str) else plain
    assert found.headers == expected
    assert found.message_id == message_id.encode()


@given(reason=names, when=moments, earlier=st.lists(words, max_size=3))
def test_the_reason_for_dead_lettering_is_read(reason, when, earlier):
    """The first table in x-death is the latest; those behind it do not count."""
    deaths = [{"reason": text, "count": 1, "time": when} for text in (reason, *earlier)]
    found = frames.read_properties(payload(header_frame(1, headers={"x-death": deaths})))
    assert found.headers[b"x-death.reason"] == reason.encode()
    assert found.headers[b"x-death.time"] == int(when.timestamp())


@given(number=st.integers(-128, -1))
def test_small_negative_numbers_are_read(number):
    """A signed octet is read as one."""
    headers = b"\x01ab" + struct.pack(">b", number)
    data = struct.pack(">HHQH", 60, 0, 0, 1 << 13) + struct.pack(">I", len(headers)) + headers
    assert frames.read_properties(data).headers == {b"a": number}


@given(data=st.binary(max_size=200))
def test_reading_properties_never_fails(data):
    """Whatever bytes stand where properties should, reading ends without an error."""
    frames.read_properties(data)


@given(headers=st.dictionaries(names, read, max_size=4), cut=st.integers(0, 400))
def test_reading_cut_properties_never_fails(headers, cut):
    """Properties that are shorter than their own sizes say are read as far as they go."""
    whole = payload(header_frame(1, headers=headers, message_id="id"))
    frames.read_properties(whole[: min(cut, len(whole))])


# ── splitting, filtering ─────────────────────────────────────────────────────────────────────────


class Recorder(FilteredChannel):
    """Records the events of a channel."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        connection: Any = SimpleNamespace(add=lambda _: None, remove=lambda _: None)
        super().__init__(connection, SimpleNamespace(number=7))  # type: ignore[arg-type]

    def on_message(self, tag: int, properties: bytes, body: bytes, *, redelivered: bool) -> None:
        """Record a delivery."""
        self.seen.append(("message", tag, frames.read_properties(properties).message_id, body, redelivered))

    def on_confirm(self, tag: int, *, multiple: bool, stored: bool) -> None:
        """Record a confirm."""
        self.seen.append(("confirm", tag, multiple, stored))

    def on_return(self, properties: bytes) -> None:
        """Record a returned message."""
        self.seen.append(("return", frames.read_properties(properties).message_id))

    def on_cancel(self) -> None:
        """Record the end of a consumer."""
        self.seen.append(("cancel",))

    def on_close(self, why: str) -> None:
        """Record the end."""
        self.seen.append(("close", why))


def message(tag: int, content: bytes, *, redelivered: bool, returned: bool) -> tuple[bytes, tuple[Any, ...]]:
    """Return a message as the server sends it, in parts of three bytes, and the event to be recorded."""
    method = commands.Basic.Deliver("consumer é", tag, redelivered, "exchange", "key")
    if returned:
        method = commands.Basic.Return(312, "NO_ROUTE", "exchange", "key")
    parts = [content[at : at + 3] for at in range(0, len(content), 3)]
    data = frame.marshal(method, 7) + header_frame(7, len(content), message_id=f"id {tag}")
    data += b"".join(frame.marshal(body.ContentBody(part), 7) for part in parts)
    name = f"id {tag}".encode()
    return data, ("return", name) if returned else ("message", tag, name, content, redelivered)


def confirm(tag: int, *, multiple: bool, stored: bool) -> tuple[bytes, tuple[Any, ...]]:
    """Return a confirm as the server sends it, and the event to be recorded."""
    method = commands.Basic.Ack(tag, multiple) if stored else commands.Basic.Nack(tag, multiple)
    return frame.marshal(method, 7), ("confirm", tag, multiple, stored)


events = st.one_of(
    st.builds(message, tags, st.binary(max_size=20), redelivered=st.booleans(), returned=st.booleans()),
    st.builds(confirm, tags, multiple=st.booleans(), stored=st.booleans()),
    st.just((frame.marshal(commands.Basic.Cancel("consumer"), 7), ("cancel",))),
)


@given(sent=st.lists(events, max_size=8), cuts=st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_frames_are_reported_once_and_in_order(sent, cuts):
    """Messages, confirms and returns are reported exactly once and in order, wherever the network cuts the stream."""
    channel, stream = Recorder(), b"".join(data for data, _ in sent)
    rest, at, turn = b"", 0, 0
    while at < len(stream):
        rest += stream[at : at + cuts[turn % len(cuts)]]
        at, turn = at + cuts[turn % len(cuts)], turn + 1
        done = 0
        for kind, number, start, end in frames.split_frames(rest):
            assert number == 7
            channel.take(kind, rest[start:end])
            done = end + 1
        rest = rest[done:]
    assert rest == b""
    assert channel.seen == [event for _, event in sent]


@pytest.mark.parametrize(
    ("method", "for_the_library"),
    [
        (commands.Channel.Close(406, "PRECONDITION_FAILED - why", 0, 0), True),
        (commands.Basic.Cancel("consumer"), True),
        (commands.Basic.CancelOk("consumer"), True),
        (commands.Queue.DeclareOk("queue", 1, 2), True),
        (commands.Basic.QosOk(), False),
        (commands.Basic.Ack(1), False),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_other_frames_pass_the_filter(method, for_the_library):
    """Answers to what the library asked pass the filter; both learn of a closed channel."""
    channel = Recorder()
    assert channel.take(frames.METHOD, payload(frame.marshal(method, 7))) is not for_the_library
    if isinstance(method, commands.Channel.Close):
        assert channel.seen == [("close", "the server closed the channel: PRECONDITION_FAILED - why")]
        assert channel.is_closed
