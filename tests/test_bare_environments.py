"""The library works where the surroundings are poor: no standard error, no locale, no metadata, no folder."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from taskcore import App, adapters
from taskcore.config import load

APP = """
import logging
from taskcore import App, current
app = App("memory://")
@app.task(name="bare.hello")
async def hello(name: str) -> str:
    logging.getLogger("shop").warning("hello %s", name)
    return name
@app.task(name="bare.fail", retry=None)
async def fail() -> None:
    raise ValueError("no\\nERROR root forged")
"""
SENDING = """
import anyio, os, signal
run = app.run_worker
async def run_and_send(*, task_status=anyio.TASK_STATUS_IGNORED, **options):
    async with anyio.create_task_group() as group:
        await group.start(lambda *, task_status: run(**options, task_status=task_status))
        task_status.started()
        await hello.using(correlation_id="c-7").enqueue("Ada")
        await fail.enqueue()
        await app.drain()
        os.kill(os.getpid(), signal.SIGTERM)
app.run_worker = run_and_send
"""


def environment(**more: str) -> dict[str, str]:
    """Return nothing but what Python needs, and more."""
    return {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **more}


def worker(folder: Path, *arguments: str, command: str = "", **more: Any) -> subprocess.Popen[bytes]:
    """Start a worker of the app in this folder."""
    words = [sys.executable, "-m", "taskcore", "worker", "bare_app:app", "--loop", "asyncio", *arguments]
    return subprocess.Popen(["sh", "-c", f'exec "$@" {command}', "sh", *words], cwd=folder, **more)


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
def test_a_worker_without_standard_error_works(where: str, tmp_path: Path) -> None:
    """Under services and windowed programs ``sys.stderr`` is None, or its disk is full; what is said there is lost."""
    if "full" in where and not Path("/dev/full").exists():
        pytest.skip("this system has no device that is always full")
    (tmp_path / "bare_app.py").write_text(APP + SENDING)
    done = worker(tmp_path, command=where, env=environment(), stdout=subprocess.PIPE)
    out, _ = done.communicate(timeout=20)
    assert (done.returncode, out) == (0, b"")


@pytest.mark.parametrize("command", ["config", "doctor", "--help", "nonsense"])
def test_no_command_needs_standard_streams(command: str, tmp_path: Path) -> None:
    """The exit code tells, also where nothing can be printed."""
    words = [sys.executable, "-m", "taskcore", command]
    codes = [
        subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *words],
            cwd=tmp_path,
            env=environment(),
            timeout=20,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ).returncode
        for closed in ("", "2>&-")
    ]
    assert codes[0] == codes[1] == (2 if command == "nonsense" else 0)


def test_a_locale_without_unicode(tmp_path: Path) -> None:
    """The signs of the banner stop no worker."""
    (tmp_path / "bare_app.py").write_text(APP + SENDING)
    ascii_only = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    done = worker(tmp_path, env=ascii_only, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    _, err = done.communicate(timeout=20)
    assert done.returncode == 0, err
    assert b"ready in" in err
    assert b"1 succeeded" in err


def test_json_lines(tmp_path: Path) -> None:
    """Every line of the log is one JSON object, and says of which job it tells."""
    (tmp_path / "bare_app.py").write_text(APP + SENDING)
    done = worker(tmp_path, "--log-format", "json", "--log-level", "debug", env=environment(), stderr=subprocess.PIPE)
    _, err = done.communicate(timeout=20)
    lines = [json.loads(line) for line in err.decode().splitlines()]
    assert done.returncode == 0
    assert all({"time", "level", "logger", "message"} <= set(line) for line in lines)
    [hello] = [line for line in lines if line["logger"] == "shop"]
    facts = {name: hello[name] for name in ("message", "level", "task", "queue", "attempt", "correlation_id")}
    assert facts == {
        "message": "hello Ada", "level": "warning", "task": "bare.hello", "queue": "default", "attempt": 1,
        "correlation_id": "c-7",
    }  # fmt: skip
    [dead] = [line for line in lines if "is dead" in line["message"]]
    assert (dead["task"], dead["job_id"] in dead["message"]) == ("bare.fail", True)
    assert not [line for line in lines if line["logger"].startswith(("asyncio", "aiormq")) and line["level"] == "debug"]


def test_a_deleted_working_directory(tmp_path: Path) -> None:
    """There is no file with settings then; arguments, variables and defaults hold."""
    program = "import os, tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)\n"
    program += "from taskcore import App\napp = App('memory://')\n@app.task\ndef g() -> None: ...\n"
    program += "print(app.sources['lease'], g.name)\n"
    words = [sys.executable, "-c", program]
    done = subprocess.run(
        words, env=environment(TASKCORE_LEASE="5m"), capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout) == (0, "env TASKCORE_LEASE main.g\n"), done.stderr


def test_our_adapters_are_found_without_the_metadata_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen programs and copied folders have none; the table in the code is that of the package."""
    for group in (adapters.BACKENDS, adapters.STORES):
        registered = {
            entry.name: entry.value for entry in entry_points(group=group) if entry.value.startswith("taskcore.")
        }
        adapters._registered.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr("importlib.metadata.entry_points", lambda group: ())
            assert {name: entry.value for name, entry in adapters._registered(group).items()} == registered
        adapters._registered.cache_clear()


def test_a_setting_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    """A settings file that is a folder, or that holds no text, is named in the error."""
    (tmp_path / "taskcore.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Exception, match=r"\[TC104\] taskcore.toml cannot be read"):
        load(directory=tmp_path, environ={})


@pytest.mark.anyio
async def test_a_queue_that_no_task_waits_in_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A worker of ``mial`` would run and do nothing."""
    app = App("memory://")

    @app.task(name="send", queue="mail")
    async def send() -> None: ...

    async with app.running(queues=["mial", "mail"]):
        pass
    lines = [record.getMessage() for record in caplog.records if "no task of this app" in record.getMessage()]
    assert lines == ['this worker watches queue "mial", and no task of this app waits there; did you mean "mail"?']


@pytest.mark.parametrize("queues", ["BAD NAME", ",,,", "a;x", ""])
def test_the_queues_of_the_command_line_are_checked(queues: str, tmp_path: Path) -> None:
    """A name that no job can be sent to is refused, as in the settings."""
    (tmp_path / "bare_app.py").write_text(APP)
    done = worker(tmp_path, "-q", queues, env=environment(), stderr=subprocess.PIPE)
    _, err = done.communicate(timeout=20)
    assert done.returncode == 2
    assert b"TC104" in err
    assert b"expected names" in err


@pytest.mark.anyio
async def test_a_variable_that_is_not_used_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A person who sets it expects an effect; the hint shows no secret."""
    monkeypatch.setenv("TASKCORE_URL", "redis://ada:hunter2@host")
    app = App("memory://")
    with caplog.at_level(logging.WARNING):
        async with app:
            pass
    assert "TASKCORE_URL is set and not used" in caplog.text
    assert "hunter2" not in caplog.text
