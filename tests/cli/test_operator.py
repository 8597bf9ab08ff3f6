"""The operator's commands as a person or a script meets them, on a real broker: their words, JSON and exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest

from taskcore import App
from taskcore.backend import Outgoing
from taskcore.faults import RedisServer
from tests.support.real import serving
from tests.support.shell import environment, run

pytestmark = pytest.mark.timeout(180)

SHOP = """
from taskcore import App

app = App("{url}")


@app.task(name="orders.ship", retry=None)
async def ship(order_id: int, note: str = "", currency: str = "EUR") -> int:
    if note == "closed":
        raise ConnectionError("ship.example: closed")
    if note == "odd":
        raise ValueError("currency missing")
    return order_id
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Serve one Redis for this module."""
    with serving(RedisServer) as server:
        yield server.url


@pytest.fixture
def shop(url: str, tmp_path: Path) -> Iterator[Path]:
    """Make a project on an empty broker."""
    (tmp_path / "shop.py").write_text(SHOP.format(url=url))
    yield tmp_path

    async def clear() -> None:
        async with App(url) as app:
            for queue in await app.components.backend.admin.queues():
                await app.components.backend.admin.delete(queue)

    anyio.run(clear)


def load(folder: Path) -> Any:
    """Return the app of a project, new for each call."""
    names: dict[str, Any] = {}
    exec((folder / "shop.py").read_text(), names)
    return names["app"]


def bury(folder: Path, **notes: int) -> None:
    """Let so many jobs with these notes run, and so die."""

    async def die() -> None:
        app = load(folder)
        async with app.running():
            for note, count in notes.items():
                for number in range(count):
                    await app.tasks["orders.ship"].enqueue(number, note)
            await app.drain(timeout=30)

    anyio.run(die)


def shell(folder: Path, *arguments: str, code: int = 0, stdin: str = "") -> str:
    """Run the command; return what it printed, and of a failed one its error, too."""
    command = [sys.executable, "-m", "taskcore", *arguments]
    ran = subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert ran.returncode == code, (ran.returncode, ran.stdout, ran.stderr)
    return ran.stdout if code == 0 else ran.stdout + ran.stderr


def lines(text: str) -> list[Any]:
    """Read the objects that a command printed."""
    return [json.loads(line) for line in text.splitlines()]


APP = ("-A", "shop:app")
SURE = ("--yes", "--reason", "a test")


def test_queues_and_status(shop: Path, url: str) -> None:
    """Numbers come from the app or from the URL alone; what needs attention has a line and an exit code."""
    assert shell(shop, "queues", "-u", url) == "there is no queue yet\n"
    bury(shop, closed=2)
    shell(shop, "send", *APP, "orders.ship", "order_id=1", "--delay", "1h")
    shell(shop, "send", *APP, "orders.ship", "order_id=2")
    [one] = lines(shell(shop, "queues", "-u", url, "--json"))
    assert one.pop("oldest_seconds") < 60
    assert one == {"queue": "default", "ready": 1, "running": 0, "scheduled": 1, "dead": 2, "unknown": []}
    titles, row = shell(shop, "queues", *APP).splitlines()
    assert titles.split() == ["queue", "ready", "running", "scheduled", "oldest", "dead"]
    assert [*row.split()[:4], row.split()[-1]] == ["default", "1", "0", "1", "2"]
    told = shell(shop, "status", *APP, "--check", code=1).splitlines()
    assert told[0].endswith("0 workers, 0 slots")
    assert told[1:3] == [
        "! default: no worker listens to it, and 2 jobs wait",
        "! default: 2 dead letters: taskcore dlq list -q default",
    ]
    assert shell(shop, "status", *APP).splitlines()[1:3] == told[1:3]
    assert lines(shell(shop, "status", *APP, "--json"))[0]["needs"] == [line.split(": ", 1)[1] for line in told[1:3]]


def test_workers(shop: Path) -> None:
    """A worker that lives is listed with what it does, and status counts it."""

    async def look() -> tuple[str, str, str]:
        async with load(shop).running(concurrency=3):
            await anyio.sleep(0.3)
            asked = [("workers",), ("workers", "--json"), ("status",)]
            return tuple([await anyio.to_thread.run_sync(shell, shop, *one, *APP) for one in asked])  # type: ignore[return-value]

    table, plain, status = anyio.run(look)
    assert table.splitlines()[0].split()[:4] == ["worker", "host", "queues", "running"]
    assert "0 of 3" in table.splitlines()[1]
    assert lines(plain)[0]["queues"] == ["default"]
    assert "1 workers, 3 slots, all heard from in the last" in status
    assert "no worker lives" in shell(shop, "workers", *APP)


def test_sending(shop: Path) -> None:
    """Texts, JSON, files and lines become arguments; what does not fit is said, and nothing is sent."""
    (shop / "args.json").write_text('{"order_id": 7, "note": "x"}')
    sent = shell(shop, "send", *APP, "orders.ship", "order_id=918", "note=7", "--key", "o-918")
    assert re.fullmatch(r"sent [0-9a-f-]{36}  orders.ship → default\n", sent)
    assert shell(shop, "send", *APP, "orders.ship", "order_id=918", "note=7", "--key", "o-918") == sent
    [one] = lines(
        shell(shop, "send", *APP, "orders.ship", "@args.json", 'note:="y"', "--id", "mine", "-q", "b", "--json")
    )
    assert one == {"id": "mine", "task": "orders.ship", "queue": "b"}
    many = shell(shop, "send", *APP, "orders.ship", "--stdin", "--json", stdin='{"order_id":1}\n\n{"order_id":2}\n')
    assert len({one["id"] for one in lines(many)}) == 2
    [first, *_] = lines(shell(shop, "jobs", *APP, "--json"))
    assert (first["task"], first["attempt"], first["due_seconds"]) == ("orders.ship", 1, None)
    assert len(shell(shop, "jobs", *APP, "--limit", "2").splitlines()) == 3
    for arguments, text, code in (
        (("order_id=nine",), "order_id: expected int, got str 'nine'", 5),
        (("order_id",), "is not NAME=TEXT, NAME:=JSON or @FILE", 2),
        (("order_id:=x",), "order_id:= is not JSON", 2),
        (("@nowhere",), "@nowhere is not a JSON object", 2),
        (("order_id=1", "--stdin"), "--stdin takes all arguments from its lines", 2),
        (("order_id=1", "--delay", "soon"), "is not a time", 2),
    ):
        assert text in shell(shop, "send", *APP, "orders.ship", *arguments, code=code)
    assert 'did you mean "orders.ship"?' in shell(shop, "send", *APP, "orders.shi", code=2)
    assert len(lines(shell(shop, "jobs", *APP, "--json"))) == 3


def test_waiting_for_a_result(shop: Path) -> None:
    """--wait prints the outcome as JSON; the exit code says whether the job succeeded."""
    text = (shop / "shop.py").read_text().replace("retry=None", "retry=None, keep_result=60.0")
    (shop / "shop.py").write_text(text)

    async def wait(*arguments: str, code: int = 0) -> str:
        async with load(shop).running():
            return await anyio.to_thread.run_sync(
                lambda: shell(shop, "send", *APP, "orders.ship", *arguments, code=code)
            )

    assert lines(anyio.run(wait, "order_id=9", "--wait", "20s")) == [{"state": "succeeded", "value": 9}]
    failed = anyio.run(lambda: wait("order_id=9", "note=odd", "--wait", "20s", "--id", "gone", code=1))
    assert lines(failed)[0]["state"] in {"dead", "failed"}
    assert "dead" in shell(shop, "job", "gone", *APP)
    assert lines(shell(shop, "job", "gone", *APP, "--json"))[0]["outcome"]["reason"] == "not retryable"
    assert "no job with this id" in shell(shop, "job", "nothing", *APP, code=1)


def test_tasks(shop: Path, url: str) -> None:
    """Tasks come with their signatures and schemas, from the app's code only."""
    assert shell(shop, "tasks", *APP).splitlines()[1].split()[:3] == ["orders.ship", "1", "default"]
    [one] = lines(shell(shop, "tasks", *APP, "orders.ship", "--json"))
    assert one["signature"].startswith("ship(order_id: int")
    [schema] = lines(shell(shop, "tasks", *APP, "orders.ship", "--schema"))
    assert schema["parameters"]["properties"]["order_id"] == {"type": "integer"}
    assert "give --app" in shell(shop, "tasks", "-u", url, code=2)


def test_changes_need_a_yes_and_a_reason(shop: Path) -> None:
    """Without a terminal a change needs --yes and --reason; --dry-run changes nothing; the reason is logged."""
    for number in range(3):
        shell(shop, "send", *APP, "orders.ship", f"order_id={number}", "--id", f"job-{number}")
    for command in (("purge", "default"), ("cancel", "job-1")):
        for given in ((), ("--yes",), ("--reason", "x")):
            missing = shell(shop, *command, *APP, *given, code=2)
            assert "give " in missing
            assert ("--yes" in missing.rpartition("give ")[2]) is ("--yes" not in given)
        dry = run(shop, *command, *APP, "--dry-run")
        assert (dry.returncode, dry.stdout) == (0, "")
        assert "would " in dry.stderr
    assert shell(shop, "cancel", "job-1", *APP, *SURE) == "job-1: cancelled\n"
    assert "job-1: not cancelled" in shell(shop, "cancel", "job-1", "job-2", *APP, *SURE, code=7)
    told = run(shop, "purge", "default", *APP, *SURE)
    assert told.stdout == "1 jobs of queue default are deleted\n"
    assert re.search(r"delete 1 ready and 0 scheduled jobs of queue default \(by \S+, reason: a test\)", told.stderr)


def test_a_night(shop: Path, url: str) -> None:
    """A thousand letters of several causes are listed, replayed, mended and dropped by four commands."""
    bury(shop, closed=600, odd=400)
    causes = lines(shell(shop, "dlq", "list", "-u", url, "--json"))
    assert [(one["letters"], one["why"]) for one in causes] == [
        (600, "ConnectionError: ship.example: closed"),
        (400, "ValueError: currency missing"),
    ]
    closed, odd = (one["fingerprint"] for one in causes)
    assert shell(shop, "dlq", "list", *APP).splitlines()[-1] == "1,000 letters, 2 causes"
    assert "which letters?" in shell(shop, "dlq", "replay", *APP, *SURE, code=2)
    plan = run(shop, "dlq", "replay", *APP, "--cause", closed, "--rate", "50/s", "--dry-run")
    assert "would replay 600 jobs from default (canary 5 now, then 595 at 50/s (12s))" in plan.stderr

    mended = shell(
        shop, "dlq", "replay", *APP, "--cause", closed, "--set", "note=open", "--rate", "1000/s", "--canary", "0", *SURE
    )
    assert mended == "replayed 600 · dropped 0 · failed 0\n"
    wrong = shell(
        shop, "dlq", "replay", *APP, "--cause", odd, "--set", "order_id=x", "--canary", "0", *SURE, "--json", code=7
    )
    told = json.loads(wrong.splitlines()[0])
    assert (told["replayed"], told["failed"]) == (0, 400)
    assert "order_id: expected int, got str" in told["problems"][0]
    assert shell(shop, "dlq", "drop", *APP, "--cause", odd, *SURE) == "replayed 0 · dropped 400 · failed 0\n"
    assert shell(shop, "dlq", "list", *APP) == "no dead letters\n"

    async def work() -> int:
        app = load(shop)
        async with app.running():
            await app.drain(timeout=30)
        return app.counters["job.succeeded"]

    assert anyio.run(work) == 600


def test_a_canary_stops_a_replay(shop: Path) -> None:
    """Where the first jobs die again the rest stays; after three replays letters are left out, unless --again."""
    bury(shop, closed=8)

    async def replay(*arguments: str, code: int) -> str:
        async with load(shop).running():
            command = ("dlq", "replay", *APP, "--all", "--canary", "2", "--wait", "4s", *SURE, *arguments)
            return await anyio.to_thread.run_sync(lambda: shell(shop, *command, code=code))

    told = anyio.run(lambda: replay(code=7))
    assert "canary: 2 sent" in told
    assert "stopped behind the canary: 2 of 2 died again" in told
    assert "replayed 2 · dropped 0 · failed 0" in told
    [cause] = lines(shell(shop, "dlq", "list", *APP, "--json"))
    assert (cause["letters"], cause["replays"]) == (8, 1)
    for _ in range(3):
        shell(shop, "dlq", "replay", *APP, "--all", "--canary", "0", *SURE)
        anyio.run(_drain, shop)
    assert "8 letters are left out" in run(shop, "dlq", "replay", *APP, "--all", "--dry-run").stderr
    assert "would replay 8 jobs" in run(shop, "dlq", "replay", *APP, "--all", "--again", "--dry-run").stderr


async def _drain(folder: Path) -> None:
    app = load(folder)
    async with app.running():
        await app.drain(timeout=30)


def test_one_letter(shop: Path, url: str) -> None:
    """A letter is found by its id, by its job's id and by its cause, and shown whole; filters choose letters."""
    bury(shop, closed=1, odd=1)
    first, second = lines(shell(shop, "dlq", "list", "--letters", *APP, "--json"))
    for name in (first["id"], first["envelope"]["id"], first["cause"]):
        shown = shell(shop, "dlq", "show", name, "-u", url)
        assert "reason     not retryable" in shown
        assert '"note":"closed"' in shown
        assert "Traceback" in shown
    assert json.loads(shell(shop, "dlq", "show", second["id"], *APP, "--json")) == second
    assert "there is no dead letter, job or cause nothing" in shell(shop, "dlq", "show", "nothing", *APP, code=1)
    for chosen, count in (
        (("--task", "orders.ship"), 2),
        (("--task", "other"), 0),
        (("--error", "ValueError"), 1),
        (("--older", "1h"), 0),
        (("--newer", "1h"), 2),
        (("--letter", second["envelope"]["id"]), 1),
        (("-q", "elsewhere", "--all"), 0),
    ):
        dry = run(shop, "dlq", "drop", *APP, *chosen, "--dry-run").stderr
        assert f"would delete {count} dead letters" in dry, chosen


def test_export_and_import(shop: Path, url: str) -> None:
    """Exported letters can be dropped, and their jobs sent later, once for each letter however often."""
    bury(shop, odd=3)

    async def malformed() -> None:
        app = load(shop)
        async with app.running():
            await app.components.backend.publish([Outgoing("default", "x", b"\xff")])
            await app.drain(timeout=30)

    anyio.run(malformed)
    exported = shell(shop, "dlq", "export", *APP)
    assert [one["raw"] for one in lines(exported) if not one["envelope"]] == ["/w=="]
    shell(shop, "dlq", "drop", "--all", "-u", url, *SURE)
    for _ in range(2):
        told = shell(shop, "dlq", "import", "-", *APP, *SURE, stdin=exported, code=7)
        assert "replayed 3 · dropped 0 · failed 1" in told
        assert "it holds no job" in told
    assert len(lines(shell(shop, "jobs", *APP, "--json"))) == 3
    assert "line 1 is not an exported letter" in shell(shop, "dlq", "import", "-", *APP, *SURE, stdin="{}", code=2)


def test_where_a_command_looks(shop: Path, url: str) -> None:
    """An app and a URL exclude each other, and a URL from the settings is enough."""
    assert "exclude each other" in shell(shop, "queues", *APP, "-u", url, code=2)
    assert "--store goes with --url" in shell(shop, "queues", *APP, "--store", "memory://", code=2)
    (shop / "taskcore.toml").write_text(f'url = "{url}"\n')
    assert shell(shop, "queues") == "there is no queue yet\n"
    assert "[TC201]" in shell(shop, "queues", "-u", "redis://127.0.0.1:1", code=4)


@pytest.mark.parametrize(
    ("text", "options", "code", "told"),
    [
        ("ready", (), 0, "ok"),
        ("waiting connecting", (), 0, "ok"),
        ("waiting connecting", ("--ready",), 1, "connecting"),
        ("ready", ("--ready",), 0, "ok"),
    ],
)
def test_health_of_a_file(tmp_path: Path, text: str, options: tuple[str, ...], code: int, told: str) -> None:
    """A fresh health file says live, and its first word says ready."""
    (tmp_path / "health").write_text(text + "\n")
    assert shell(tmp_path, "health", "health", *options, code=code).strip() == told
    assert "last gave a sign of life" in shell(tmp_path, "health", "health", "--within", "0", code=1)


def test_health_of_an_address(tmp_path: Path) -> None:
    """The answer of a worker's port becomes the exit code; a port where no worker answers is not healthy."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.startswith("/live?within=10s") else 503)
            self.end_headers()
            self.wfile.write(b'{"live":true,"ready":false,"why":"connecting"}\n')

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}"
        assert shell(tmp_path, "health", place) == "ok\n"
        assert "connecting" in shell(tmp_path, "health", place, "--ready", code=1)
        server.shutdown()
    assert "127.0.0.1:" in shell(tmp_path, "health", place, code=1)
    assert "name the worker's health file" in shell(tmp_path, "health", code=2)
