"""Public values in pydantic and FastAPI: serialized, described, and made from data where that has a meaning."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Any

import anyio
import msgspec
import pytest

from taskcore import (
    App,
    Cancelled,
    Dead,
    Envelope,
    ErrorRecord,
    Expired,
    Failed,
    JobOutcome,
    QueueStats,
    Succeeded,
    Trail,
)
from taskcore.backend import Features
from taskcore.backends.memory import FEATURES
from taskcore.deadletter import DeadLetter, ReplayWith
from taskcore.toolkit.values import PublicValue

pydantic = pytest.importorskip("pydantic")

RECORD = ErrorRecord("ValueError", "no", 1.0, "host:1", 1, "shop.py:7")
STATS = QueueStats(ready=1, leased=2, scheduled=3, dead=4)
ENVELOPE = Envelope(v=1, id="1", task="greet", args=msgspec.Raw(b'{"name": "Ada"}'), enqueued_at=1.0)

FROM_DATA = [
    (QueueStats, STATS),
    (Features, FEATURES),
    (ErrorRecord, RECORD),
    (Trail, Trail(attempts=1, errors=(RECORD,))),
    (Succeeded[int], Succeeded(7)),
    (Dead, Dead("exhausted", RECORD)),
    (JobOutcome[int], Succeeded(7)),
    (JobOutcome[int], Dead("poison", None)),
    (JobOutcome[int], Cancelled()),
    (JobOutcome[int], Expired()),
]


@pytest.mark.parametrize(("kind", "value"), FROM_DATA, ids=lambda one: getattr(one, "__name__", None))
def test_values_go_out_and_come_back(kind: Any, value: Any) -> None:
    """A value passes as it is, becomes JSON with a schema, and is the same value when it is read again."""
    adapter = pydantic.TypeAdapter(kind)
    assert adapter.validate_python(value) is value
    assert adapter.validate_json(adapter.dump_json(value)) == value
    assert adapter.validate_python(adapter.dump_python(value)) == value
    assert adapter.json_schema(mode="serialization")


def test_a_value_of_another_type_is_refused() -> None:
    """The type of a result is checked, and so is each field."""
    for kind, data in ((Succeeded[int], {"state": "succeeded", "value": "seven"}), (QueueStats, {"ready": "x"})):
        with pytest.raises(pydantic.ValidationError):
            pydantic.TypeAdapter(kind).validate_python(data)


def test_values_that_only_go_out() -> None:
    """A job, a dead letter, an envelope and a declared error are written in plain data, and never made from it."""
    app = App("memory://")

    @app.task(name="greet")
    async def greet(name: str) -> str:
        return name

    letter = DeadLetter(
        id="1",
        queue="q",
        reason="poison",
        when=1.0,
        job_id="1",
        task="greet",
        envelope=ENVELOPE,
        trail=Trail(),
        raw=b"\xff",
    )
    for value, part in (
        (greet.job("17"), {"id": "17", "task": "greet", "queue": "default"}),
        (letter, {"reason": "poison", "raw": "\ufffd"}),
        (ENVELOPE, {"args": {"name": "Ada"}}),
        (Failed(LookupError("no"), RECORD), {"state": "failed", "error": "LookupError: no"}),
    ):
        adapter = pydantic.TypeAdapter(type(value))
        assert adapter.validate_python(value) is value
        shown = adapter.dump_python(value, mode="json")
        assert shown.items() >= part.items()
        assert adapter.json_schema()
        with pytest.raises(pydantic.ValidationError, match="cannot be made from data"):
            adapter.validate_json(adapter.dump_json(value))


def test_inside_a_model() -> None:
    """A model of the program's own may have them as fields."""
    model = pydantic.create_model("Health", stats=(QueueStats, ...), outcome=(JobOutcome[int] | None, None))
    text = model(stats=STATS, outcome=Succeeded(7)).model_dump_json()
    assert '"outcome":{"state":"succeeded","value":7}' in text
    assert model.model_validate_json(text).stats == STATS


async def get(web: Any, path: str) -> Any:
    """Send one request to an ASGI program, and read the JSON of its answer."""
    body = bytearray()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200
        body.extend(message.get("body", b""))

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    await web(scope, receive, send)
    return msgspec.json.decode(body)


def test_with_fastapi() -> None:
    """They are return types and response models of endpoints, and part of the description of the interface."""
    fastapi = pytest.importorskip("fastapi")
    web = fastapi.FastAPI()

    async def health() -> QueueStats:
        return STATS

    async def outcome() -> Any:
        return Dead("exhausted", RECORD)

    web.get("/health")(health)
    web.get("/outcome", response_model=JobOutcome[int])(outcome)
    counts = {"ready": 1, "leased": 2, "scheduled": 3, "dead": 4, "oldest": None, "parked": None}
    assert anyio.run(get, web, "/health") == counts
    assert anyio.run(get, web, "/outcome")["state"] == "dead"
    assert "/outcome" in anyio.run(get, web, "/openapi.json")["paths"]


def every_kind() -> list[type[PublicValue]]:
    """List the classes of public values that have fields, in every room."""
    for room in ("progress.record", "events.record", "deadletter", "observe", "task"):
        import_module(f"taskcore.{room}")
    kinds = (kind for kind in subclasses(PublicValue) if kind.__struct_fields__ and kind is not ReplayWith)
    return sorted(kinds, key=lambda kind: kind.__name__)


def subclasses(kind: type[Any]) -> set[type[Any]]:
    """Return the classes below this one."""
    return {one for below in kind.__subclasses__() for one in (below, *subclasses(below))}


def some_value(kind: type[PublicValue]) -> PublicValue:
    """Make a value whose fields are texts, or real objects where these are written as something else."""
    task = App("memory://").task(name="greet")(lambda: None)
    real = {"task": task, "args": msgspec.Raw(b"{}"), "raw": b"\xff", "error": LookupError("no"), "envelope": ENVELOPE}
    return kind(**{name: real[name] if name in kind.shown else name for name in kind.__struct_fields__})


def answers(value: Any) -> Any:
    """Return what FastAPI makes of a value that an endpoint without a return type returns, alone and in a list."""
    web = pytest.importorskip("fastapi").FastAPI()

    async def one():  # type: ignore[no-untyped-def]
        return value

    async def many():  # type: ignore[no-untyped-def]
        return {"all": [value]}

    web.get("/one")(one)
    web.get("/many")(many)
    answer = anyio.run(get, web, "/one")
    assert anyio.run(get, web, "/many") == {"all": [answer]}
    return answer


@pytest.mark.parametrize("kind", every_kind(), ids=lambda kind: kind.__name__)
def test_an_endpoint_needs_no_return_type(kind: type[PublicValue]) -> None:
    """FastAPI writes every field of every public value, also without an annotation; dict() gives the same."""
    value = some_value(kind)
    shown = {name: make(getattr(value, name)) for name, make in kind.shown.items()}
    plain = {name: name for name in kind.__struct_fields__}
    expected = ({"state": kind.tag} if kind.tag else {}) | plain | shown
    assert dict(value) == expected
    assert answers(value) == msgspec.json.decode(msgspec.json.encode(expected))


@pytest.mark.parametrize(("kind", "value"), FROM_DATA, ids=lambda one: getattr(one, "__name__", None))
def test_the_answer_is_the_same_with_and_without_a_return_type(kind: Any, value: Any) -> None:
    """An annotation adds a schema and changes no value."""
    assert answers(value) == pydantic.TypeAdapter(kind).dump_python(value, mode="json")


def test_pydantic_is_not_imported() -> None:
    """Importing the library does not import pydantic."""
    code = "import sys, taskcore; assert not [name for name in sys.modules if name.startswith('pydantic')]"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
