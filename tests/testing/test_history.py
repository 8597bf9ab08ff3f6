"""Histories: written line by line, surviving a kill, merged by time; and what a recording backend puts into them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import anyio
import pytest

from taskcore import App, BrokerUnavailable, Reject, Snooze, current
from taskcore.backend import Outgoing
from taskcore.backends.memory import MemoryBackend
from taskcore.conformance.checking.actors import Actors
from taskcore.conformance.checking.recorder import RecordingBackend, digest, job_of
from taskcore.faults import DropReply, Fail, FlakyBackend
from taskcore.lifecycle import Ack, Bury, Release, Reschedule
from taskcore.testing.history import History, HistoryEntry

WRITER = """
import sys, time
from taskcore.testing.history import History
history = History.to_file(sys.argv[1], who=sys.argv[2])
number = 0
while True:
    history.record("start", f"job-{number}", number=number)
    number += 1
    if number == 100:
        print("ready", flush=True)
    time.sleep(0.0001)
"""

running = SimpleNamespace(job_id="A", attempt=1, fence=3)


def kinds(history: History, job: str | None = None) -> list[str]:
    """List the kinds of the entries, in order; events by their names."""
    return [
        str(entry.facts["name"]) if entry.kind == "event" else entry.kind
        for entry in history.entries
        if job is None or entry.job == job
    ]


def test_in_memory():
    """Entries stay in order, with the time of the injected clock."""
    clock = iter([1.0, 2.5])
    history = History(who="w1", clock=lambda: next(clock))
    history.record("invoke", "A", queue="q")
    history.record("ok", "A", who="w2")
    assert list(history.entries) == [
        HistoryEntry(1.0, "w1", "invoke", "A", {"queue": "q"}),
        HistoryEntry(2.5, "w2", "ok", "A"),
    ]


def test_in_a_file(tmp_path):
    """What was recorded is in the file at once, and comes back as it was; what is no plain data as its text."""
    path = tmp_path / "h.jsonl"
    history = History.to_file(path, who="w1", sync=True)
    history.record("start", "A", attempt=1, where=tmp_path)
    loaded = History.load([path, tmp_path / "missing.jsonl"])
    assert [(entry.kind, entry.job, entry.facts) for entry in loaded.entries] == [
        ("start", "A", {"attempt": 1, "where": str(tmp_path)})
    ]
    history.close()
    history.close()


def test_two_writers_of_one_file(tmp_path):
    """Two histories may append to one file; nothing is overwritten."""
    path = tmp_path / "h.jsonl"
    one, two = History.to_file(path, who="one"), History.to_file(path, who="two")
    for number in range(50):
        one.record("start", f"{number}")
        two.record("end", f"{number}")
    assert len(History.load([path]).entries) == 100
    one.close(), two.close()


def test_merging(tmp_path):
    """Several files become one history in the order of times; at equal times each file keeps its own order."""
    for name, times in (("a", [1.0, 3.0, 3.0]), ("b", [2.0, 3.0])):
        clock = iter(times)
        history = History.to_file(tmp_path / name, who=name, clock=lambda clock=clock: next(clock))
        for number in range(len(times)):
            history.record("start", f"{name}{number}")
        history.close()
    merged = History.load([tmp_path / "a", tmp_path / "b"])
    assert [entry.job for entry in merged.entries] == ["a0", "b0", "a1", "a2", "b1"]
    more = History(clock=lambda: 2.5)
    more.record("died", "")
    merged.extend(more.entries)
    assert [entry.job for entry in merged.entries] == ["a0", "b0", "", "a1", "a2", "b1"]


def test_an_incomplete_last_line_is_left_out(tmp_path):
    """A last line without an end is what a kill leaves, and is left out; anything else that is no entry is an error."""
    path = tmp_path / "h.jsonl"
    path.write_bytes(b'{"at":1.0,"who":"w","kind":"ok","job":"A"}\n{"at":2.0,"wh')
    assert kinds(History.load([path])) == ["ok"]
    path.write_bytes(b'{"at":1.0,"wh\n')
    with pytest.raises(ValueError, match=r"h\.jsonl:1 is not an entry"):
        History.load([path])


def test_it_survives_a_kill(tmp_path):
    """After kill -9 everything that was recorded before is there, and nothing is torn."""
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    paths = [tmp_path / "1.jsonl", tmp_path / "2.jsonl"]
    children = [
        subprocess.Popen([sys.executable, script, path, path.name], stdout=subprocess.PIPE, env=os.environ)
        for path in paths
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    entries = History.load(paths).entries
    for path in paths:
        numbers = [entry.facts["number"] for entry in entries if entry.who == path.name]
        assert len(numbers) >= 100
        assert numbers == list(range(len(numbers)))


def test_a_run():
    """A run has a start and an end with its outcome; whatever it raises goes on."""
    history = History()
    with history.run(running):
        history.effect("key", "A")
    with pytest.raises(ValueError, match="bad"), history.run(running):
        raise ValueError("bad")
    with pytest.raises(GeneratorExit), history.run(running):
        raise GeneratorExit
    ends = [entry.facts for entry in history.entries if entry.kind == "end"]
    assert [(end["run"], end["outcome"], end.get("error")) for end in ends] == [
        (1, "returned", None),
        (2, "raised", "ValueError: bad"),
        (3, "interrupted", None),
    ]
    assert history.entries[0].facts == {"run": 1, "attempt": 1, "fence": 3}


def test_an_error_without_a_text():
    """An error whose text cannot be made is written down all the same."""

    class Broken(Exception):
        def __str__(self):
            raise RuntimeError

    history = History()
    with pytest.raises(Broken), history.run(running):
        raise Broken
    assert "__str__ raised RuntimeError" in history.entries[-1].facts["error"]


def test_names():
    """An envelope's job is known by its id, other bytes by their digest."""
    assert job_of(b'{"id":"A","v":9,"more":[]}') == "A"
    foreign = b"\xff\xfe"
    assert job_of(foreign) == f"raw-{digest(foreign)}"
    assert job_of(b"[" * 100_000).startswith("raw-")


@pytest.mark.anyio
async def test_enqueues():
    """Each enqueue is written down before the call and after it, with what the broker said."""
    history = History(clock=anyio.current_time)
    flaky = FlakyBackend(MemoryBackend("memory://?limit=2"))
    backend = RecordingBackend(flaky, history, "c")

    def job(name: str) -> Outgoing:
        envelope = b'{"id":"%s","task":"t","key":"k","enqueued_at":5.0,"deadline":8.0}' % name.encode()
        return Outgoing("q", name, envelope, delay=1.0)

    await backend.publish([job("A"), job("A"), job("B"), job("C")])
    flaky.next("publish", Fail())
    with pytest.raises(BrokerUnavailable):
        await backend.publish([job("D")])
    flaky.next("publish", DropReply())
    await backend.publish([job("E")])
    flaky.next("publish", Fail(RuntimeError("broken adapter")))
    with pytest.raises(RuntimeError):
        await backend.publish([job("F")])

    assert kinds(history, "A") == ["invoke", "invoke", "ok", "duplicate"]
    assert [kinds(history, name) for name in "BCDEF"] == [
        ["invoke", "ok"],
        ["invoke", "refused"],
        ["invoke", "refused"],
        ["invoke", "uncertain"],
        ["invoke", "uncertain"],
    ]
    facts = history.entries[0].facts
    assert (facts["queue"], facts["delay"], facts["expires"], facts["key"]) == ("q", 1.0, 3.0, "k")
    assert facts["envelope"] == digest(job("A").envelope)


@pytest.mark.anyio
async def test_a_cancelled_enqueue_is_uncertain():
    """An enqueue whose caller stops waiting for the answer is uncertain."""
    history = History(clock=anyio.current_time)
    flaky = FlakyBackend(MemoryBackend())
    flaky.next("publish", DropReply("hang"))
    with anyio.move_on_after(0.01):
        await RecordingBackend(flaky, history, "c").publish([Outgoing("q", "A", b"{}")])
    assert kinds(history) == ["invoke", "uncertain"]


@pytest.mark.anyio
async def test_verdicts():
    """Each verdict is written down with what became of it."""
    history = History(clock=anyio.current_time)
    flaky = FlakyBackend(MemoryBackend())
    backend = RecordingBackend(flaky, history, "w1")
    await backend.publish([Outgoing("q", name, b'{"id":"%s"}' % name.encode()) for name in "ABCD"])
    async with backend.consume(["q"], lease=60.0) as source:
        deliveries = await source.receive(4)
        verdicts = [Ack(), Reschedule(5.0, b"trail"), Release(), Bury("why", b"trail")]
        await source.settle(list(zip(deliveries, verdicts, strict=True)))
        assert not await source.extend([])
        await source.settle([(deliveries[0], Ack())])
        flaky.next("settle", DropReply())
        with pytest.raises(BrokerUnavailable):
            await source.settle([(deliveries[1], Ack())])
    assert kinds(history, "A")[2:] == ["received", "settled", "lost"]
    assert kinds(history, "B")[2:] == ["received", "settled", "settle.uncertain"]
    settled = {entry.job: entry.facts for entry in history.entries if entry.kind == "settled"}
    assert [settled[name]["verdict"] for name in "ABCD"] == ["ack", "reschedule", "release", "bury"]
    assert settled["B"]["after"] == 5.0
    assert (settled["D"]["reason"], settled["D"]["trail"]) == ("why", digest(b"trail"))


@pytest.mark.anyio
async def test_actions_of_people_are_recorded():
    """Removing, purging, replaying and dropping are part of a job's history."""
    history = History(clock=anyio.current_time)
    backend = RecordingBackend(MemoryBackend(), history, "p")
    await backend.publish([Outgoing("q", name, b'{"id":"%s"}' % name.encode()) for name in "ABCD"])
    admin = backend.admin
    assert await admin.remove("q", "A")
    assert not await admin.remove("q", "A")
    async with backend.consume(["q"], lease=60.0) as source:
        for delivery in await source.receive(2):
            await source.settle([(delivery, Bury("why", b""))])
    letters = await admin.letters("q", limit=9)
    await admin.replay(letters[0].id, Outgoing("q", "B2", b'{"id":"B2"}'))
    await admin.drop(letters[1].id)
    assert await admin.purge("q") == 2
    assert kinds(history, "A") == ["invoke", "ok", "cancelled"]
    assert kinds(history, "B")[-1] == "replayed"
    assert kinds(history, "B2") == ["invoke", "ok"]
    assert next(entry.facts["replays"] for entry in history.entries if entry.job == "B2") == "B"
    assert kinds(history, "C")[-1] == "dropped"
    assert kinds(history, "")[-1] == "purged"


@pytest.mark.anyio
async def test_bytes_that_are_no_envelope():
    """Bytes that are no envelope have the same name when they are sent and when they arrive."""
    history = History(clock=anyio.current_time)
    backend = RecordingBackend(MemoryBackend(), history)
    await backend.publish([Outgoing("q", "A", b"{"), Outgoing("q", "B", b'{"id":"B","task":"t"}')])
    name = job_of(b"{")
    assert history.tasks == {name: "", "B": "t"}
    async with backend.consume(["q"], lease=60.0) as source:
        await source.receive(1)
    assert kinds(history, name) == ["invoke", "ok", "received"]


@pytest.mark.anyio
async def test_actors_act_by_turns():
    """Through one connection several act, each under its own name; the dead are known, and listeners too."""
    history, app = History(clock=anyio.current_time), App("memory://")
    backend = RecordingBackend(MemoryBackend(), history)
    actors = Actors(history, app, prefix="p.")
    one, other = actors.enter("client"), actors.enter("client")
    actors.switch_to(one)
    await backend.publish([Outgoing("q", "A", b"{}")])
    with actors.acting(other):
        await backend.publish([Outgoing("q", "B", b"{}")])
        app.components.events.emit("job.enqueued", job_id="B")
    assert actors.current == one
    actors.record_death(one)
    recorded = [(entry.who, entry.kind) for entry in history.entries if entry.facts.get("name") != "listening"]
    assert recorded == [
        *[("p.client-1", kind) for kind in ("invoke", "ok")],
        *[("p.client-2", kind) for kind in ("invoke", "ok", "event")],
        ("p.client-1", "died"),
    ]
    assert {entry.who for entry in history.entries if entry.facts.get("name") == "listening"} >= {one, other}


@pytest.mark.anyio
async def test_an_app_records_its_events():
    """Events of an app are entries too, with plain facts."""
    history = History(clock=anyio.current_time)
    app = App("memory://")
    history.listen(app, who="w1")

    @app.task
    async def work(what: str) -> None:
        with history.run(current(), who="w1"):
            if what == "reject":
                raise Reject("no")
            if what == "snooze" and not any(entry.kind == "end" for entry in history.entries):
                raise Snooze(0.0)

    async with app.running():
        rejected = await work.enqueue("reject")
        await rejected.outcome(timeout=5)
        await work.enqueue("snooze")
        await app.drain(timeout=5)
    assert kinds(history)[0] == "listening"
    names = kinds(history, rejected.id)
    assert [name for name in names if name in ("job.enqueued", "start", "end", "job.buried")] == [
        "job.enqueued",
        "start",
        "end",
        "job.buried",
    ]
