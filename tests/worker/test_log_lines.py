"""What a worker's log tells of jobs: one line for each, and nothing of arguments and results."""

from __future__ import annotations

import json
import logging
from typing import Any

import anyio
import msgspec
import pytest
from pydantic import BaseModel, field_validator

from taskcore import App, InvalidArguments, Reject, Retry
from taskcore.backend import Outgoing
from taskcore.backends.memory import MemoryBackend
from taskcore.stores.memory import MemoryStore
from tests.support.faulty import eventually

pytestmark = pytest.mark.anyio
SECRET = "hunter2SECRET"
FORGED = "x\nERROR root forged \x1b[31m\u202e"


class Login(BaseModel):
    """A model whose validator repeats the value."""

    user: str
    pins: dict[str, int]

    @field_validator("user")
    @classmethod
    def no_spaces(cls, value: str) -> str:
        """Refuse, and say what."""
        if " " in value:
            raise ValueError(f"{value!r} has a space")
        return value


class Card(msgspec.Struct):
    """A struct whose own code repeats the value."""

    number: str
    kind: str = "debit"

    def __post_init__(self) -> None:
        if not self.number.isdigit():
            raise ValueError(f"not a number: {self.number}")


def envelope(job_id: str, task: str, args: object) -> bytes:
    """Write an envelope, as a foreign sender would."""
    return json.dumps({"v": 1, "id": job_id, "task": task, "args": args, "enqueued_at": 0}).encode()


BAD_ARGUMENTS = [
    ("t.pin", {"pin": SECRET}, "pin: expected int, got str"),
    ("t.pin", {"pin": {SECRET: 1}}, "pin: expected int, got dict"),
    ("t.pins", {"pins": {SECRET: "1"}}, "pins[key 1]: expected int, got str"),
    ("t.card", {"card": {"number": SECRET}}, "card: expected Card, got dict"),
    ("t.card", {"card": {"number": [SECRET]}}, "card.number: expected str, got list"),
    ("t.login", {"login": {"user": f"{SECRET} x", "pins": {}}}, "login.user: refused: value_error, got str"),
    ("t.login", {"login": {"user": "x", "pins": {SECRET: SECRET}}}, "login.pins: refused: int_type, got str"),
    ("t.login", SECRET, "expected a JSON object, got str"),
]


@pytest.mark.parametrize(("task", "args", "told"), BAD_ARGUMENTS)
async def test_a_payload_that_does_not_fit_is_told_without_its_values(
    task: str, args: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Log, events and the dead letter's reason name path and type; the dead letter has the bytes."""
    backend = MemoryBackend()
    app = App(backend, store=MemoryStore())
    events: list[str] = []
    app.on_event(lambda event: events.append(repr(event)))

    @app.task(name="t.pin")
    async def pin(pin: int) -> None: ...

    @app.task(name="t.pins")
    async def pins(pins: dict[str, int]) -> None: ...

    @app.task(name="t.card")
    async def card(card: Card) -> None: ...

    @app.task(name="t.login")
    async def login(login: Login) -> None: ...

    with caplog.at_level(logging.DEBUG):
        async with app.running():
            await backend.publish([Outgoing("default", "1", envelope("1", task, args), b"")])
            await eventually(lambda: app.counters["job.buried"])
            [letter] = [letter async for letter in app.dead_letters.read()]
    assert told in caplog.text
    assert told in letter.reason
    assert SECRET not in caplog.text + "".join(events) + letter.reason
    assert SECRET.encode() in letter.raw


@pytest.mark.parametrize(
    ("returns", "value", "told"),
    [
        (int, f"{SECRET}-result", "result: expected int, got str"),
        (dict[str, int], {SECRET: "1"}, "result[key 1]: expected int, got str"),
        (Login, {"user": SECRET}, "result: expected Login, got dict"),
        (object, object(), "result: expected"),
    ],
)
async def test_a_result_that_does_not_fit_is_told_without_its_values(
    returns: Any, value: Any, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Log, events and the record that callers read name path and type."""
    app = App("memory://")
    events: list[str] = []
    app.on_event(lambda event: events.append(repr(event)))

    async def answer(n: int) -> Any:
        return value

    answer.__annotations__["return"] = Any if returns is object else returns
    task = app.task(name="t.answer")(answer)
    with caplog.at_level(logging.DEBUG):
        async with app.running():
            outcome = await (await task.enqueue(1)).outcome(timeout=5)
    assert told in caplog.text
    assert SECRET not in caplog.text + "".join(events) + repr(outcome)


async def test_a_task_that_sends_bad_arguments_does_not_log_them(caplog: pytest.LogCaptureFixture) -> None:
    """The caller, here a task, gets an error with the value; the worker that logs this error leaves it out."""
    app = App("memory://", retry=Retry(attempts=1))
    seen: list[str] = []

    @app.task(name="t.inner", key=lambda pin: "")
    async def inner(pin: int) -> None: ...

    @app.task(name="t.outer")
    async def outer() -> None:
        try:
            await inner.enqueue(SECRET)  # type: ignore[arg-type]
        except InvalidArguments as error:
            seen.append(str(error))
            raise

    with caplog.at_level(logging.DEBUG):
        async with app.running():
            await (await outer.enqueue()).outcome(timeout=5)
    assert SECRET in seen[0]
    assert "pin: expected int, got str" in caplog.text
    assert SECRET not in caplog.text


async def test_no_job_can_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Ids, task names, argument names, errors and reasons with newlines, escapes and bidi marks stay on one line."""
    backend = MemoryBackend()
    app = App(backend, store=MemoryStore(), retry=Retry(attempts=2, base=0.001))

    @app.task(name="t.fail")
    async def fail(how: str) -> None:
        raise Reject(FORGED) if how == "reject" else ValueError(FORGED)

    bodies = [
        envelope(FORGED, "t.fail", {"how": "reject"}),
        envelope("1", FORGED, {}),
        envelope("2", "t.fail", {FORGED: 1}),
        envelope("3", "t.fail", {"how": "reject"}),
        envelope("4", "t.fail", {"how": "raise"}),
        FORGED.encode(),
        b'{"v": 9, "id": "%b", "task": "%b"}' % (FORGED.encode("unicode_escape"), b"t"),
        msgspec.json.encode({"v": 9, "id": FORGED, "task": FORGED}),  # parked: for a newer worker
    ]
    with caplog.at_level(logging.DEBUG):
        async with app.running():
            await backend.publish([Outgoing("default", str(n), body, b"") for n, body in enumerate(bodies)])
            await eventually(lambda: app.counters["job.buried"] >= 6 and app.counters["job.parked"] >= 1)
            await anyio.sleep(0.1)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("taskcore")]
    assert sum("forged" in line for line in lines) >= 3
    assert all(line.isprintable() for line in lines)


async def test_a_message_that_is_no_job_is_told_by_queue_and_size(caplog: pytest.LogCaptureFixture) -> None:
    """There is no id to tell, so the line says where the dead letter is and why."""
    backend = MemoryBackend()
    app = App(backend)
    app.task(name="t.x")(_nothing)
    async with app.running():
        await backend.publish([Outgoing("default", "1", b"garbage", b"")])
        await eventually(lambda: app.counters["job.buried"])
    assert (
        "a message of 7 bytes in queue default is a dead letter now: malformed: this is not an envelope" in caplog.text
    )


async def _nothing() -> None: ...
