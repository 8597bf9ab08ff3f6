"""The protocol, without a server: what is parsed does not depend on how it arrives, and hostile bytes do no harm."""

from __future__ import annotations

import itertools
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats.aio.msg import Msg
from nats.protocol.parser import Parser as OtherParser

import taskcore
from taskcore.connections.nats.protocol import (
    LINE_LIMIT,
    SIZE_LIMIT,
    Message,
    Parser,
    ProtocolError,
    Reply,
    encode_message,
    encode_subscription,
    header_of,
    number_of,
)

LINES = [(b"PING", b""), (b"PONG", b""), (b"+OK", b""), (b"-ERR", b"'no'"), (b"INFO", b'{"a":1}')]

Event = tuple[Any, ...]

TOKENS = st.binary(min_size=1, max_size=20).filter(lambda token: not set(token) & set(b" \t\r\n\v\f"))
HEADERS = st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0 404 None\r\n\r\n", b"\xff\r\n\r\n\r\n", b"MSG a 1 5\r\n"])


def events_of(pieces: list[bytes]) -> list[Event]:
    """Return what a parser makes of these pieces."""
    found: list[Event] = []
    parser = Parser(lambda *message: found.append(message), lambda *line: found.append(line))
    for piece in pieces:
        parser.feed(piece)
    assert parser.is_between
    return found


@st.composite
def sent(draw: st.DrawFn) -> tuple[bytes, list[Event]]:
    """Draw bytes as a server may send them, and the events that they are."""
    data, events = b"", []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["line", "MSG", "HMSG"]))
        if kind == "line":
            verb, rest = draw(st.sampled_from(LINES))
            data += verb + (b" " + rest if rest else b"") + b"\r\n"
            events.append((verb, rest))
            continue
        number, subject, body = draw(st.integers(0, 10**9)), draw(TOKENS), draw(st.binary(max_size=60))
        reply = draw(st.just(b"") | TOKENS)
        headers = draw(HEADERS) if kind == "HMSG" else b""
        sizes = b"%d %d" % (len(headers), len(headers + body)) if headers else b"%d" % len(body)
        words = [kind.encode(), subject, b"%d" % number, *([reply] if reply else []), sizes]
        data += b" ".join(words) + b"\r\n" + headers + body + b"\r\n"
        events.append((number, subject, reply, body, headers))
    return data, events


@given(sent(), st.lists(st.integers(0, 400), max_size=12))
def test_any_split_gives_the_same_events(both: tuple[bytes, list[Event]], cuts: list[int]) -> None:
    """What arrives whole, in pieces of any size and byte by byte is the same."""
    data, events = both
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert events_of([data]) == events
    assert events_of([data[a:b] for a, b in itertools.pairwise(places)]) == events
    assert events_of([data[index : index + 1] for index in range(len(data))]) == events


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"MSG a 1 ", b"HMSG a 1 ", b"\r\n", b"5", b"-1", b" "])))
@example([b"MSG a 1 1_0\r\n"])
@example([b"HMSG a 1 9 3\r\nNATS/1.0\r\n"])
@example([b"MSG a 1 2\r\nabc\r\n"])
@example([b"MSG a " + b"9" * 5000 + b" 1\r\n"])
def test_hostile_bytes_give_an_error_or_nothing(pieces: list[bytes]) -> None:
    """Whatever arrives, a parser raises ProtocolError or waits for more; no other exception leaves it."""
    parser = Parser(lambda *_: None, lambda *_: None)
    with suppress(ProtocolError):
        for piece in pieces:
            parser.feed(piece)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"MSG a 1\r\n",
        b"MSG a b c 1 5\r\n",
        b"MSG a x 5\r\n",
        b"MSG a 1 -5\r\n",
        b"MSG a 1 %d\r\n" % (SIZE_LIMIT + 1),
        b"HMSG a 1 9 5\r\n",
        b"HMSG a 1 5\r\n",
        b"MSG a 1 2\r\nab..",
        b"Message\r\n",
        b"\r\n",
    ],
)
def test_bytes_outside_the_protocol_are_refused(data: bytes) -> None:
    """A line that no server writes, and a size that is impossible, raise before memory is used for them."""
    with pytest.raises(ProtocolError):
        Parser(lambda *_: None, lambda *_: None).feed(data)


def test_a_line_without_an_end_uses_bounded_memory() -> None:
    """A parser gives up when a line does not end, and keeps no more than the limit."""
    parser = Parser(lambda *_: None, lambda *_: None)
    for _ in range(LINE_LIMIT // 1000):
        parser.feed(b"x" * 1000)
    with pytest.raises(ProtocolError, match="a line has more than"):
        parser.feed(b"x" * 1000)


def test_written_messages_follow_the_protocol() -> None:
    """Messages and subscriptions have the form that the protocol says."""
    assert encode_message(Message(b"a.b", b"body")) == b"PUB a.b  4\r\nbody\r\n"
    assert encode_message(Message(b"a", b"b", b"X: 1\r\n"), b"r") == b"HPUB a r 18 19\r\nNATS/1.0\r\nX: 1\r\n\r\nb\r\n"
    assert encode_subscription(b"a.*", 7) == b"SUB a.*  7\r\n"
    assert Reply(b"", b"NATS/1.0 503\r\n\r\n").status == b"503"
    assert Reply(b"", b"NATS/1.0\r\nA: b\r\n\r\n").status == b""
    headers = b"NATS/1.0\r\nA: 1\r\na:2\r\nA: 3\r\nAB: 4x\r\nno colon\r\n\r\n"
    for name, value in ((b"A", b"1"), (b"a", b"2"), (b"AB", b"4x"), (b"B", b""), (b"no colon", b"")):
        assert header_of(headers, name) == value
        assert number_of(headers, name) == (int(value) if value.isdigit() else 0)
    assert header_of(b"NATS/1.0\r\nA: 1", b"A") == b"1"


class Heard:
    """Stands for nats-py's client behind its parser."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.events.append((sid, subject, reply or b"", data, headers or b""))

    async def _process_ping(self) -> None:
        self.events.append((b"PING", b""))

    async def _process_pong(self) -> None:
        self.events.append((b"PONG", b""))


@pytest.mark.anyio
async def test_nats_py_reads_the_same() -> None:
    """The parser of nats-py, written independently, finds the same events in the same bytes."""
    data = (
        b"PING\r\nMSG a.b 1 3\r\nabc\r\nMSG a 22 re.ply 0\r\n\r\n"
        b"HMSG h 3 12 14\r\nNATS/1.0\r\n\r\nhi\r\nHMSG h 3 r 12 12\r\nNATS/1.0\r\n\r\n\r\nPONG\r\n"
    )
    heard: Any = Heard()
    await OtherParser(heard).parse(data)
    assert heard.events == events_of([data])
    assert Msg(heard, "a").subject == "a"


def test_no_private_name_of_nats_py_is_used() -> None:
    """The library touches the public API of nats-py only: no subclass, no internal module, no name with a _."""
    root = Path(taskcore.__file__).parent
    for path in root.rglob("*.py"):
        text = path.read_text("utf-8")
        if not re.search(r"^\s*(?:from|import) nats\b", text, re.MULTILINE):
            continue
        assert not re.search(r"^\s*(?:from|import) nats\.protocol", text, re.MULTILINE), path
        assert not re.search(r"\bclass \w+\((?:nats\.|Client\b)", text), path
        assert not re.search(r"\bclient\._\w", text), path
