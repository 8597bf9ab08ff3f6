"""What comes from the wire has the limits of ``using()``: a job beyond them is malformed, and names no record."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest

from taskcore import App, InvalidSetting
from taskcore.backend import Outgoing
from taskcore.backends.memory import MemoryBackend
from taskcore.envelope import (
    HEADERS_LIMIT,
    ID_LIMIT,
    KEY_LIMIT,
    NAME_LIMIT,
    CallRetry,
    Trail,
    decode_envelope,
    decode_trail,
    encode_trail,
)
from taskcore.errors import MalformedEnvelope
from taskcore.stores.memory import MemoryStore
from taskcore.toolkit.units import LONGEST_DURATION

pytestmark = pytest.mark.anyio

PLAIN: dict[str, Any] = {"v": 1, "id": "f", "task": "t.work", "args": {"n": 1}, "enqueued_at": 0.0}

#: A field, a value at its limit, and values beyond it.
FIELDS: dict[str, tuple[Any, list[Any]]] = {
    "id": ("x" * ID_LIMIT, ["", "x" * (ID_LIMIT + 1), "nul\0", "new\nline", "\x1b[31m", 7, None, "x" * 100_000]),
    "correlation_id": ("x" * ID_LIMIT, ["", "x" * (ID_LIMIT + 1), "a\x00b", "a\rb"]),
    "key": ("ä" * KEY_LIMIT, ["", "x" * (KEY_LIMIT + 1), 5, "k" * 1_000_000]),
    "headers": (
        {"a": "x" * (HEADERS_LIMIT - 1)},
        [{"a": "x" * HEADERS_LIMIT}, {"ä": "x" * (HEADERS_LIMIT - 1)}, {"a": 1}],
    ),
    "task": ("t" * NAME_LIMIT, ["", "t" * (NAME_LIMIT + 1), "T.Work", "a b", "x\ny", "/etc"]),
    "queue": ("q" * NAME_LIMIT, ["", "q" * (NAME_LIMIT + 1)]),
    "version": (1, [0, -1, 2**70, 1.5]),
    "source": ("x" * ID_LIMIT, ["x" * (ID_LIMIT + 1)]),
    "enqueued_at": (0.0, ["soon", None]),
    "timeout": (LONGEST_DURATION, [0, -1, 1e12, "soon"]),
    "retry": (
        CallRetry(attempts=10**18, base=0.0, factor=1e308, cap=LONGEST_DURATION),
        [{"attempts": 0}, {"base": -1}, {"base": 1e12}, {"cap": 1e308}, {"factor": 0.5}, {"jitter": "some"}, 3],
    ),
    "deadline": (4e9, ["soon", []]),
}
BEYOND = [(field, value) for field, (_, values) in FIELDS.items() for value in values]


@pytest.fixture
def anyio_backend() -> str:
    """Choose asyncio."""
    return "asyncio"


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_at_its_limit(field: str) -> None:
    """The largest value that ``using()`` takes is read from the wire."""
    envelope = decode_envelope(msgspec.json.encode({**PLAIN, field: FIELDS[field][0]}))
    assert getattr(envelope, field) == FIELDS[field][0]


@pytest.mark.parametrize(("field", "value"), BEYOND, ids=lambda value: repr(value)[:30])
async def test_a_field_beyond_its_limit(field: str, value: Any) -> None:
    """Beyond a limit a message is a dead letter with its bytes; no store hears of it, and its neighbour runs."""
    backend, store = MemoryBackend(), _Names()
    app = App(backend, store=store)

    @app.task(name="t.work")
    async def work(n: int) -> int:
        return n

    data = msgspec.json.encode({**PLAIN, field: value})
    async with app:
        await backend.publish([Outgoing("default", "f", data)])
        job = await work.enqueue(2)
        async with app.running(grace=1.0):
            assert await job.result(timeout=5) == 2
            with anyio.fail_after(5):
                letters = await _letters(app)
        assert [letter.raw for letter in letters] == [data]
        assert letters[0].reason.startswith("malformed: ")
        assert len(letters[0].reason) < 500
    assert all(job.id in name or name == "job/f" for name in store.names), store.names


class _Names(MemoryStore):
    """A store that notes the names of which it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    async def get(self, key: str) -> Any:
        self.names.add(key)
        return await super().get(key)

    async def put_many(self, writes: Any) -> Any:
        self.names |= {write.key for write in writes}
        return await super().put_many(writes)


async def _letters(app: App) -> list[Any]:
    while True:
        letters = [letter async for letter in app.dead_letters.read("default")]
        if letters:
            return letters
        await anyio.sleep(0.01)


@pytest.mark.parametrize(("option", "limit"), [("id", ID_LIMIT), ("key", KEY_LIMIT), ("correlation_id", ID_LIMIT)])
async def test_using_has_the_same_limits(option: str, limit: int) -> None:
    """A caller learns at once what a worker would refuse."""
    app = App("memory://")

    @app.task(name="t.work")
    async def work(n: int) -> int:
        return n

    work.using(**{option: "x" * limit})  # type: ignore[arg-type]  # one option of many
    for text in ("x" * (limit + 1), ""):
        with pytest.raises(InvalidSetting):
            work.using(**{option: text})  # type: ignore[arg-type]  # as above
    work.using(headers={"a": "x" * (HEADERS_LIMIT - 1)})
    with pytest.raises(InvalidSetting):
        work.using(headers={"a": "x" * HEADERS_LIMIT})


@pytest.mark.parametrize(
    "data",
    [
        b'{"copies":' + b"9" * 400 + b"}", b'{"copies":-1}', b'{"attempts":-5}', b'{"crashes":1e300}',
        b'{"copies":"1"}',
        b'{"replay_of":"' + b"x" * 600 + b'"}', b'{"errors":[' + b",".join([b"{}"] * 9) + b"]}", b"[]", b"garbage",
        b'{"errors":[' + b",".join([b'{"type":"","message":"","when":0,"worker":"","attempt":1}'] * 101) + b"]}",
    ],
    ids=lambda data: repr(data)[:25],
)  # fmt: skip
def test_a_trail_beyond_its_limits(data: bytes) -> None:
    """A trail with impossible counts is malformed: its counts would name records and order holders."""
    with pytest.raises(MalformedEnvelope):
        decode_trail(data)


def test_our_own_trails_are_within_the_limits() -> None:
    """A trail that grew as long as it can is read again."""
    trail = Trail(attempts=1_000_000, crashes=3, copies=1_000_000_000, replay_of="x" * ID_LIMIT)
    assert decode_trail(encode_trail(trail)) == trail
