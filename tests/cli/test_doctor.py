"""``taskcore doctor``: every line is a finding, the exit code says whether something failed, and nothing hangs."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import anyio
import pytest

from taskcore.cli import group as command_line
from taskcore.cli.commands import doctor
from taskcore.errors import StoreRequired
from tests.support.shell import environment, run

ROOT = str(Path(__file__).parents[2])
APP = """
import sys
sys.path.insert(0, {root!r})
from tests.support.diagnosed import *
from taskcore import AdapterMissing, App, BrokerUnavailable

app = App({arguments})


@app.task(name="work")
async def work(order: int) -> None: ...
"""


@pytest.fixture
def ask(tmp_path, monkeypatch, capsys):
    """Return a function that runs the doctor on an app with these arguments; it returns exit code and findings."""
    monkeypatch.chdir(tmp_path)

    def ask(arguments, more="", place="shop_app:app"):
        (tmp_path / "shop_app.py").write_text(APP.format(root=ROOT, arguments=arguments) + more)
        sys.modules.pop("shop_app", None)
        code = command_line.run(["doctor", place, "--json", "--app-dir", str(tmp_path)])
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return int(code), lines[:-1], lines[-1]

    yield ask
    sys.modules.pop("shop_app", None)


def named(findings, name):
    """Return the one finding of this name."""
    [found] = [finding for finding in findings if finding["name"] == name]
    return found


def test_a_healthy_app(ask):
    """Everything is looked at: import, settings, server, round trip, durability, features, start markers, versions."""
    code, found, totals = ask("DiagnosedBackend(), store=DiagnosedStore()")
    assert (code, totals) == (0, {"failed": 0, "warnings": 0})
    assert [one["name"] for one in found] == [
        "versions", "app", "settings", "broker", "jobs", "store", "features", "crashes", "queue default"
    ]  # fmt: skip
    assert named(found, "app")["text"].endswith("1 task, no name twice")
    assert "from: argument" in named(found, "settings")["text"]
    assert named(found, "broker")["text"].startswith("Fake 1.2 · round trip ")
    assert "p99" in named(found, "broker")["text"]
    assert named(found, "jobs")["text"] == "survives a restart"
    assert "native: delay" in named(found, "features")["text"]
    assert "no task is refused" in named(found, "features")["text"]
    assert "marked in the store" in named(found, "crashes")["text"]
    assert all(name in named(found, "versions")["text"] for name in ("python 3", "anyio 4", "hiredis"))


def test_facts_are_lines(ask):
    """Each fact of broker and store is a line with its level, clauses and fix; one server is not heard twice."""
    code, found, totals = ask("DiagnosedBackend(EVICTS, SLOW), store=DiagnosedStore(EVICTS, SLOW)")
    assert (code, totals) == (0, {"failed": 0, "warnings": 2})
    eviction = named(found, "eviction")
    assert (eviction["level"], eviction["clauses"]) == ("warn", ["C1"])
    assert eviction["fix"] == "CONFIG SET maxmemory-policy noeviction"
    assert named(found, "latency")["clauses"] == []
    _, found, _ = ask("DiagnosedBackend(), store=DiagnosedStore(SLOW)")
    assert named(found, "store: latency")["level"] == "warn"


def test_a_clause_that_does_not_hold_is_never_ok(ask):
    """A clause that does not hold is never ok, even where that is by design, as in memory."""
    code, found, _ = ask('"memory://"')
    assert (code, named(found, "durability")["level"]) == (0, "warn")


def test_strict_makes_unsafe_facts_fail(ask):
    """What would keep the app from opening has failed; what only may hurt some day has not."""
    code, found, totals = ask("DiagnosedBackend(EVICTS, SLOW), store=DiagnosedStore(), strict=True")
    assert (code, totals) == (5, {"failed": 1, "warnings": 1})
    assert named(found, "eviction")["level"] == "fail"
    assert named(found, "latency")["level"] == "warn"


def test_a_server_that_cannot_say(ask):
    """A backend that cannot ask its server is a warning; its own sentence about durability stands in."""
    _, found, totals = ask("DumbBackend(), store=DumbStore()")
    assert totals == {"failed": 0, "warnings": 1}
    assert named(found, "diagnosis")["level"] == "warn"
    assert named(found, "jobs")["text"] == "jobs live in this process and end with it"


def test_without_a_store(ask):
    """Without a store the doctor says what counts crashes, and which tasks are refused."""
    code, found, _ = ask("DiagnosedBackend()")
    assert code == 0
    assert (named(found, "crashes")["level"], named(found, "crashes")["clauses"]) == ("warn", ["C12"])
    keyed = '@app.task(name="pay", key=lambda order: str(order))\nasync def pay(order: int) -> None: ...\n'
    code, found, _ = ask("DiagnosedBackend()", keyed)
    assert code == 5
    assert named(found, "tasks")["text"].startswith("[TC105] without a store the app does not open: pay has an ")
    assert "refused for: pay" in named(found, "features")["text"]


def test_what_an_app_refuses_the_doctor_names(ask):
    """Every need because of which an app does not open is a finding, a limit of crashes that no one counts included."""
    declared = """
@app.task(name="pay", key=lambda order: str(order))
async def pay(order: int) -> None: ...

@app.task(name="ask", keep_result=60.0)
async def ask() -> int: ...

@app.task(name="resize", crashes=2)
async def resize() -> None: ...
"""
    code, found, _ = ask("UncountingBackend()", declared)
    assert code == 5
    text = named(found, "tasks")["text"]
    assert "pay has an idempotency key (shop_app.py:" in text
    assert "ask keeps its results (shop_app.py:" in text
    assert "resize limits its crashes (shop_app.py:" in text
    assert "refused for: pay, ask, resize" in named(found, "features")["text"]

    app = sys.modules["shop_app"].app
    with pytest.raises(StoreRequired, match="pay has an idempotency key") as caught:
        anyio.run(app.__aenter__)
    assert all(each in str(caught.value) for each in ("ask keeps its results", "resize limits its crashes"))


def test_out_of_reach(ask):
    """One line, with the facts, the fix, and where the address came from."""
    code, found, totals = ask("UnreachableBackend()")
    assert (code, totals["failed"]) == (4, 1)
    broker = named(found, "broker")
    assert broker["level"] == "fail"
    assert broker["text"] == (
        "[TC201] cannot reach the broker; connection refused by 127.0.0.1:6399; the address came from: argument"
    )
    assert broker["fix"] == "is it running?"


def test_a_broker_that_never_answers(ask, monkeypatch):
    """A broker that never answers is given up within the time limit (C22)."""
    monkeypatch.setattr(doctor, "CONNECT_TIMEOUT", 0.2)
    began = time.monotonic()
    code, found, _ = ask("UnreachableBackend(hangs=True)")
    assert time.monotonic() - began < 10
    assert code == 4
    assert "did not answer within 0.2 s" in named(found, "broker")["text"]


def test_a_store_out_of_reach(ask):
    """The findings about the broker are reported all the same."""
    more = """
class Gone(DumbStore):
    async def get(self, key):
        raise BrokerUnavailable("cannot reach the store")

app = App(DiagnosedBackend(), store=Gone())

@app.task(name="work")
async def again() -> None: ...
"""
    code, found, _ = ask("DiagnosedBackend()", more)
    assert code == 4
    assert named(found, "broker")["level"] == "ok"
    assert named(found, "store")["text"] == "[TC201] cannot reach the store"


@pytest.mark.parametrize(
    ("arguments", "more", "says", "ends"),
    [
        ('"memory://"', "import nosuch\n", "[TC101] ", 3),
        ('"memory://"', '@app.task(name="work")\ndef again() -> None: ...\n', "[TC306] ", 5),
        ('"redix://localhost"', "", "[TC103] ", 2),
        ('"memory://"', 'raise AdapterMissing("x:// needs the x extra", fix="pip install x")\n', "[TC102] ", 2),
    ],
)
def test_what_cannot_be_put_together(ask, arguments, more, says, ends):
    """A module that fails, two tasks of one name, a wrong URL, an extra that is missing: a line each, no traceback."""
    code, found, _ = ask(arguments, more)
    assert code == ends
    name = "app"
    assert named(found, name)["level"] == "fail"
    assert named(found, name)["text"].startswith(says)


def test_an_app_without_tasks(ask):
    """An app that imports without tasks is a warning."""
    _, found, _ = ask('"memory://"', 'app = App("memory://")\n')
    assert named(found, "app")["level"] == "warn"


# ── queues ───────────────────────────────────────────────────────────────────────────────────────

FULL = """
import anyio
from taskcore.backend import Outgoing, QueueStats

class FullBackend(DiagnosedBackend):
    def __init__(self, queues):
        super().__init__()
        self.counts = queues

    @property
    def admin(self):
        return self

    async def queues(self):
        return list(self.counts)

    async def stats(self, queues):
        return [self.counts.get(queue) or QueueStats(ready=0, leased=0, scheduled=0, dead=0) for queue in queues]

app = App(FullBackend({queues}), store=DiagnosedStore())

@app.task(name="again")
async def again() -> None: ...
"""


def test_how_full_the_queues_are(ask):
    """Each queue is a line with its depth, the age of its oldest job and its dead letters; letters are a warning."""
    counts = (
        '{"mail": QueueStats(ready=12, leased=2, scheduled=5, dead=0, oldest=200.4), '
        '"a": QueueStats(ready=0, leased=0, scheduled=0, dead=2000)}'
    )
    code, found, totals = ask('"memory://"', FULL.replace("{queues}", counts))
    assert (code, totals) == (0, {"failed": 0, "warnings": 1})
    assert named(found, "queue default")["text"] == "0 ready · 0 running · 0 scheduled · 0 dead"
    assert named(found, "queue mail")["text"] == "12 ready (oldest 3m20s) · 2 running · 5 scheduled · 0 dead"
    letters = named(found, "queue a")
    assert (letters["level"], letters["text"]) == ("warn", "0 ready · 0 running · 0 scheduled · 2,000 dead")
    assert "app.dead_letters" in letters["fix"]


def test_a_queue_without_a_worker(ask):
    """A job that has been ready for long while no job of its queue runs is a warning."""
    counts = '{"mail": QueueStats(ready=1, leased=0, scheduled=0, dead=0, oldest=3600.0)}'
    _, found, totals = ask('"memory://"', FULL.replace("{queues}", counts))
    assert totals["warnings"] == 1
    assert named(found, "queue mail")["fix"] == "is a worker listening to this queue?"


def test_many_queues(ask):
    """Twenty queues have a line each, those with dead letters and old jobs first; the others share one."""
    counts = '{f"q{number}": QueueStats(ready=1, leased=0, scheduled=0, dead=number // 999) for number in range(1000)}'
    _, found, _ = ask('"memory://"', FULL.replace("{queues}", counts))
    lines = [one for one in found if one["name"].startswith("queue")]
    assert len(lines) == 21
    assert named(found, "queue q999")["level"] == "warn"
    assert lines[-1]["text"] == "981 more: 980 ready · 0 running · 0 scheduled · 0 dead"


# ── real processes ───────────────────────────────────────────────────────────────────────────────


def test_lines_for_people(tmp_path):
    """One line a finding, without colours outside of a terminal, and a total."""
    answer = run(tmp_path, "doctor", "memory://")
    assert answer.returncode == 0, answer.stderr
    lines = answer.stdout.splitlines()
    assert lines[-1] == "0 failed, 2 warnings"
    assert any(line.startswith("warn  durability         jobs live in this process") for line in lines)
    assert any(line.startswith("                         fix: name a broker") for line in lines)
    assert "\x1b" not in answer.stdout


def test_the_settings_name_the_broker(tmp_path):
    """Without a word the settings are looked at; the line says which file named the address, and hides its password."""
    (tmp_path / "taskcore.toml").write_text('\nurl = "redix://me:secret@somewhere"\n')
    answer = run(tmp_path, "doctor")
    assert answer.returncode == 2
    assert "broker redix://****@somewhere (from: taskcore.toml:2)" in answer.stdout
    assert "fail  adapter            [TC103]" in answer.stdout
    assert "secret" not in answer.stdout + answer.stderr


def test_wrong_settings(tmp_path):
    """A setting that cannot be is a finding too."""
    answer = run(tmp_path, "doctor", TASKCORE_STRICT="perhaps")
    assert answer.returncode == 2
    assert "fail  settings           [TC104]" in answer.stdout


def test_a_store_needs_a_broker(tmp_path):
    """--store is for a URL; an app brings its own."""
    assert run(tmp_path, "doctor", "memory://", "--store", "none").returncode == 0
    answer = run(tmp_path, "doctor", "hello:app", "--store", "memory://")
    assert answer.returncode == 2
    assert "an app brings its own store" in answer.stderr


def test_colours_for_a_terminal(tmp_path):
    """A person at a terminal sees colours."""
    ours, theirs = pty.openpty()
    variables = {name: value for name, value in environment(TERM="xterm").items() if name != "NO_COLOR"}
    command = [sys.executable, "-m", "taskcore", "doctor", "memory://"]
    subprocess.run(command, cwd=tmp_path, env=variables, stdout=theirs, stderr=theirs, check=True, timeout=15)
    os.close(theirs)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[33m\x1b[1mwarn" in text
