"""The command line, as a person or a script meets it: real processes, their words, their exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.shell import environment, run

HELLO = """
from taskcore import App

app = App("memory://")


@app.task
async def greet(name: str, times: int = 1) -> str:
    return name * times


@app.task(queue="mail")
def post(to: str) -> None:
    print(to)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Make a project with an app in ``hello.py``."""
    (tmp_path / "hello.py").write_text(HELLO)
    return tmp_path


# ── help ─────────────────────────────────────────────────────────────────────────────────────────


def test_help_is_quick(tmp_path):
    """Help comes at once: the aim is 0.25 s, the bound allows for a busy machine."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        answer = run(tmp_path, "--help")
        times.append(time.perf_counter() - start)
        assert answer.returncode == 0
    assert "worker" in answer.stdout
    assert min(times) < 1.0


def test_help_imports_nothing_heavy(tmp_path):
    """Neither help nor ``import taskcore`` loads pydantic, rich, trio, a broker client or a command."""
    program = "import sys; from taskcore.cli.group import run; run(['--help']); print(*sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    heavy = {
        "pydantic",
        "rich",
        "trio",
        "redis",
        "aio_pika",
        "aiormq",
        "nats",
        "psycopg",
        "taskcore.cli.commands.worker",
    }
    assert not heavy & set(answer.stdout.split())


@pytest.mark.parametrize("arguments", [["worker", "--help"], ["config", "--help"], ["--version"]])
def test_every_command_has_help(tmp_path, arguments):
    """Each command explains itself."""
    answer = run(tmp_path, *arguments)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout


def test_unknown_command(tmp_path):
    """A command with a typo is a usage error with a suggestion."""
    answer = run(tmp_path, "wroker")
    assert answer.returncode == 2
    assert 'did you mean "worker"?' in answer.stderr


def test_click_is_missing(tmp_path):
    """Without the extra the command answers with the line that installs it."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(\"No module named 'click'\", name='click')\n")
    answer = run(tmp_path, "worker", "hello:app")
    assert answer.returncode == 2
    assert 'pip install "taskcore-framework[cli]"' in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


# ── loading the app ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("nosuch:app", ["No module named 'nosuch'", "--app-dir", "modules here: hello"]),
        ("helo:app", ["No module named 'helo'", 'did you mean "hello"?']),
        ("hello.sub:app", ["No module named 'hello.sub'"]),
        ("hello:ap", ['has no "ap"', 'did you mean "hello:app"?']),
        ("hello:greet", ["not an App", "hello:app"]),
        ("hello:", ["hello:app"]),
        ("hello.py", ["hello:app"]),
        ("./hello.py:app", ["hello:app"]),
        ("hello app", ["shop.tasks:app"]),
    ],
)
def test_wrong_place(shop, place, says):
    """Each kind of wrong place is answered within a second, in at most four lines, without a traceback."""
    start = time.perf_counter()
    answer = run(shop, "worker", place)
    assert time.perf_counter() - start < 3.0  # the aim is 1 s, the bound allows for a busy machine
    assert answer.returncode == 3
    assert answer.stderr.startswith("error[TC101]: ")
    assert len(answer.stderr.splitlines()) <= 4
    assert "Traceback" not in answer.stderr
    for part in says:
        assert part in answer.stderr


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import nosuch\n", ["No module named 'nosuch'", "broken.py:1 in <module>: import nosuch", "install"]),
        ("import helo\n", ["broken.py:1", "did you mean `import hello`?"]),
        ("def f():\n    return 1 / 0\n\nf()\n", ["ZeroDivisionError", "broken.py:4", "broken.py:2 in f: return 1 / 0"]),
        ("def (\n", ["SyntaxError", "broken.py:1: def ("]),
        ("raise SystemExit(3)\n", ["ended the program", "broken.py:1", '__name__ == "__main__"']),
        ("import json\njson.loads('{')\n", ["JSONDecodeError", "broken.py:2 in <module>: json.loads('{')"]),
    ],
)
def test_module_fails(shop, source, says):
    """When the module itself fails, the answer is its own lines, not ours."""
    (shop / "broken.py").write_text(source)
    answer = run(shop, "worker", "broken:app")
    assert answer.returncode == 3
    assert "Traceback" not in answer.stderr
    assert "importlib" not in answer.stderr
    for part in says:
        assert part in answer.stderr


def test_debug_shows_the_traceback(shop):
    """--debug prints the whole traceback."""
    (shop / "broken.py").write_text("1 / 0\n")
    answer = run(shop, "worker", "broken:app", "--debug")
    assert answer.returncode == 3
    assert "Traceback (most recent call last)" in answer.stderr


@pytest.mark.parametrize(
    ("source", "code", "exit_code"),
    [
        ('app = App("memory://", lease="soon")', "TC104", 2),
        ('app = App("memory:/")', "TC103", 2),
        ('app = App("nosuch://ada:hunter2@localhost:1/0")', "TC103", 2),
        ("app = App()\n@app.task\ndef lock(thing: type): ...", "TC303", 5),
        ('app = App()\n@app.task(name="No Name")\ndef lock(): ...', "TC308", 5),
    ],
)
def test_our_own_errors_come_through(shop, source, code, exit_code):
    """A module that uses taskcore wrongly gets that error, with its own exit code and without a password."""
    (shop / "wrong.py").write_text(f"from taskcore import App\n{source}\n")
    answer = run(shop, "worker", "wrong:app")
    assert answer.stderr.startswith(f"error[{code}]: ")
    assert answer.returncode == exit_code
    assert "hunter2" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_only_app_needs_no_name(shop):
    """A module alone stands for its ``app``, or for the only App in it; with several the answer lists them."""
    (shop / "lonely.py").write_text("from hello import app as shop\n")
    (shop / "several.py").write_text("from taskcore import App\none = App()\ntwo = App()\n")
    assert run(shop, "config", "hello").returncode == 0
    assert run(shop, "config", "lonely").returncode == 0
    answer = run(shop, "config", "several")
    assert answer.returncode == 3
    assert "several:one or several:two" in answer.stderr


def test_app_from_settings(shop):
    """The settings may name the app; an error then says which setting it was."""
    (shop / "taskcore.toml").write_text('app = "nosuch:app"\n')
    answer = run(shop, "worker")
    assert answer.returncode == 3
    assert "named by taskcore.toml:1" in answer.stderr
    assert "no app was named" in run(shop, "worker", "--app-dir", "/").stderr


# ── config ───────────────────────────────────────────────────────────────────────────────────────


def test_config(shop):
    """Each setting is printed with its value and its source, without secrets."""
    (shop / "taskcore.toml").write_text('\nlease = "2m"\n')
    answer = run(shop, "config", TASKCORE_URL="redis://ada:hunter2@host")
    assert answer.returncode == 0
    lines = [line.split("  ") for line in answer.stdout.splitlines()]
    rows = {line[0].strip(): [part.strip() for part in line if part.strip()][1:] for line in lines}
    assert rows["url"] == ["redis://****@host", "env TASKCORE_URL"]
    assert rows["lease"] == ["2m", "taskcore.toml:2"]
    assert rows["grace"] == ["20s", "default"]
    assert "\x1b" not in answer.stdout


def test_config_as_json(shop):
    """For machines the command prints one object a line, with values as they are."""
    answer = run(shop, "config", "hello:app", "--json", TASKCORE_THREADS="3")
    rows = {row["setting"]: row for row in map(json.loads, answer.stdout.splitlines())}
    assert rows["threads"] == {"setting": "threads", "value": 3, "from": "env TASKCORE_THREADS"}
    assert rows["lease"]["value"] == 15.0
    assert rows["url"]["value"] == "memory://"


def test_wrong_settings(shop):
    """Wrong settings are a usage error that names each source."""
    answer = run(shop, "config", TASKCORE_LEASE="soon", TASKCORE_THREDS="1")
    assert answer.returncode == 2
    assert "env TASKCORE_LEASE" in answer.stderr
    assert "env TASKCORE_THREDS" in answer.stderr


# ── worker ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Keep processes, and end them after the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start_worker(
    processes: list[subprocess.Popen[str]], shop: Path, *options: str
) -> tuple[subprocess.Popen[str], str]:
    """Start a worker; return it when it is ready, with its output until then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "taskcore", "worker", "hello:app", *options],
        cwd=shop,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    processes.append(process)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("ready"):
            return process, said
    pytest.fail(f"the worker ended with {process.wait()}:\n{said}")


@pytest.mark.skipif(os.name == "nt", reason="no signals to send on Windows")
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_stops_at_a_signal(processes, shop, loop, number):
    """A signal ends an idle worker soon, with exit code 0 and a last line."""
    process, _ = start_worker(processes, shop, "--loop", loop)
    process.send_signal(number)
    _, rest = process.communicate(timeout=10)
    assert process.returncode == 0, rest
    assert rest.splitlines()[-1].startswith("done: 0 succeeded")
    assert "Traceback" not in rest


@pytest.mark.skipif(os.name == "nt", reason="no signals to send on Windows")
def test_worker_banner(processes, shop):
    """The first lines say what runs: versions, loop, app, broker and its features, queues, tasks with signatures."""
    _, said = start_worker(processes, shop, "--loop", "asyncio", "-q", "mail, default", "-c", "7", "--grace", "1m30s")
    for part in (
        "taskcore ",
        f"python {sys.version.split()[0]}",
        "asyncio",
        "hello:app · 2 tasks",
        "memory://",
        "native: delay, dedup, fencing, redeliveries, remove, locate, dead letters",
        "mail, default · 7 jobs at once · grace 1m30s",
        "greet(name: str, times: int = 1) -> str",
        "post(to: str) -> None",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--grace", "soon"], "is not a time"),
        (["-c", "0"], "concurrency"),
        (["--loop", "twisted"], "--loop"),
        (["--app-dir", "nosuch"], "nosuch"),
    ],
)
def test_wrong_options(shop, options, says):
    """Wrong options are usage errors."""
    answer = run(shop, "worker", "hello:app", *options)
    assert answer.returncode == 2
    assert says in answer.stderr


DOWN = """
from taskcore import App, BrokerUnavailable
from taskcore.backends.memory import MemoryBackend

class Down(MemoryBackend):
    async def __aenter__(self):
        raise BrokerUnavailable("cannot reach the broker at nosuch://host")

app = App(Down("memory://"))

@app.task
def post(): ...
"""


def test_broker_out_of_reach(shop):
    """A broker that cannot be reached has an exit code of its own and no traceback; the address has a source."""
    (shop / "far.py").write_text(DOWN)
    answer = run(shop, "worker", "far:app")
    assert answer.returncode == 4, answer.stderr
    assert answer.stderr.count("error[TC201]: cannot reach the broker") == 1
    assert "the address came from" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "done:" not in answer.stderr
