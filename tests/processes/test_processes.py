"""Processes that run jobs: what they print, log and raise, how they end, and what ends with them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import anyio
import pytest

from taskcore import App, InvalidSetting, JobFailed, Retry
from taskcore.processes import runner
from taskcore.worker import hosting
from tests.support import in_processes
from tests.support.faulty import letters

pytestmark = pytest.mark.anyio

ABOVE = "taskcore.process"


@pytest.fixture
def app():
    """Make an app with one process, so each job finds the process of the one before."""
    app = App("memory://", retry=Retry(attempts=1), processes=1)
    app.include(in_processes.router)
    return app


@pytest.fixture(autouse=True)
def _at_info(caplog):
    caplog.set_level(logging.INFO)


def printed(caplog, job):
    """Return the lines that the process of a job printed."""
    head = f"job {job.id} of {job.task.name}: "
    texts = [record.getMessage() for record in caplog.records if record.name == ABOVE and record.job_id == job.id]
    assert all(text.startswith(head) for text in texts)
    return [text.removeprefix(head) for text in texts]


async def process_of(app):
    """Return the id of the process that runs the next job."""
    pid, _ = await (await in_processes.where.enqueue(in_processes.Point(0, 0))).result(timeout=10)
    return pid


# ── output ──


async def test_output_is_never_taken_for_an_answer(app, caplog, tmp_path):
    """Bytes that a pickle-based protocol would run, printed by a program, are lines in the log and nothing else."""
    proof = tmp_path / "proof"
    attack = f"cbuiltins\nexec\n(S'open({str(proof)!r}, \"w\")'\ntR.".encode()
    upload = tmp_path / "upload"
    upload.write_bytes(b"RETURN %d\n" % len(attack) + attack)

    async with app.running():
        job = await in_processes.run_program.enqueue(arguments=["cat", str(upload)])
        assert await job.result(timeout=10) == 0

    assert not proof.exists()
    assert printed(caplog, job)[0] == f"RETURN {len(attack)}"


async def test_all_output_reaches_the_log(app, caplog):
    """Print, standard error, the descriptor, C code and programs: a line each, with its job; no standard input."""
    async with app.running():
        job = await in_processes.speak.enqueue()
        assert await job.result(timeout=10) == ""

    assert printed(caplog, job) == ["by print", "by stderr", "by write", "by C", "by a program"]
    assert {record.levelno for record in caplog.records if record.name == ABOVE} == {logging.WARNING}


async def test_output_belongs_to_the_job_that_wrote_it(app, caplog):
    """The next job in the same process does not get the lines, or the unfinished line, of the one before."""
    async with app.running():
        jobs = [await in_processes.print_bytes.enqueue([b"%d\n" % n, b"rest %d" % n], 50) for n in range(5)]
        for job in jobs:
            await job.result(timeout=10)

    for n, job in enumerate(jobs):
        text = "\n".join(printed(caplog, job))
        assert text == "\n".join([str(n), *[f"rest {n}{n}"] * 49, f"rest {n}"])


async def test_a_line_without_end_and_bytes_that_are_no_text(app, caplog):
    """Lines are cut, control characters escaped; neither fails the job."""
    async with app.running():
        long = await in_processes.print_bytes.enqueue([b"x" * 50_000], 100)
        await long.result(timeout=10)
        odd = await in_processes.print_bytes.enqueue([b"\x00\xff\x1b[31mred\r\n", "é\u2028\n".encode()])
        await odd.result(timeout=10)

    [line] = printed(caplog, long)
    assert line == "x" * 8_192 + "… and 4991808 bytes more"
    assert printed(caplog, odd) == [r"\x00\xff\x1b[31mred", r"é\u2028"]


async def test_log_records_arrive_as_log_records(app, caplog):
    """A record keeps its logger, level, text, traceback and place, and names its job; a thread's record, too."""
    caplog.set_level(logging.INFO, logger="shop.cart")
    async with app.running():
        job = await in_processes.write_log.using(correlation_id="order 7").enqueue("shop.cart")
        await job.result(timeout=10)

    records = [record for record in caplog.records if record.name == "shop.cart"]
    assert [(record.levelname, record.getMessage()) for record in records] == [
        ("INFO", "about this"),
        ("ERROR", "it failed"),
        ("CRITICAL", "from a thread"),
    ]
    assert {(one.job_id, one.task, one.queue, one.attempt, one.correlation_id, one.parent_id) for one in records} == {
        (job.id, job.task.name, "default", 1, "order 7", None)
    }
    assert "ValueError: invalid literal" in logging.Formatter().format(records[1])
    assert records[0].filename == "in_processes.py"
    assert records[0].process != os.getpid()


async def test_a_broken_log_handler_harms_no_job(app):
    """A handler of the worker's that raises does not end the process or its job."""

    class ClauseViolated(logging.Handler):
        def handle(self, record):
            raise RuntimeError("disk full")

    handler, target = ClauseViolated(), logging.getLogger("shop.broken")
    target.addHandler(handler)
    try:
        async with app.running():
            first = await process_of(app)
            await (await in_processes.write_log.enqueue("shop.broken")).result(timeout=10)
            assert await process_of(app) == first
    finally:
        target.removeHandler(handler)


async def test_a_slow_log_handler_does_not_hold_up_the_worker(app):
    """While a handler writes what a process printed, other jobs of the worker run."""
    entered, gate = threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def handle(self, record):
            entered.set()
            gate.wait(5)

    @app.task
    async def quick() -> bool:
        return gate.is_set()

    handler, target = Slow(), logging.getLogger(ABOVE)
    target.addHandler(handler)
    try:
        async with app.running():
            job = await in_processes.print_bytes.enqueue([b"hello\n"])
            assert await anyio.to_thread.run_sync(entered.wait, 10)
            assert await (await quick.enqueue()).result(timeout=5) is False
            gate.set()
            await job.result(timeout=5)
    finally:
        gate.set()
        target.removeHandler(handler)


# ── errors ──


@pytest.mark.parametrize(
    ("what", "attempt"), [("later", "attempt 2, ['the other side is asleep']"), ("snooze", "attempt 1, []")]
)
async def test_a_process_may_say_when(app, what, attempt):
    """RetryLater uses an attempt and keeps its words, Snooze uses none; both with the time that they name."""
    async with app.running():
        job = await in_processes.say.enqueue(what)

        assert await job.result(timeout=10) == attempt


@pytest.mark.parametrize(("what", "reason"), [("reject", "rejected: it is over"), ("closed", "rejected: on Sundays")])
async def test_a_process_may_reject(app, what, reason):
    """Reject ends the job at once, with its reason; if it is declared, it arrives typed as well."""
    async with app.running():
        with pytest.raises(JobFailed) as caught:
            await (await in_processes.say.enqueue(what)).result(timeout=10)
        [letter] = await letters(app)

    assert letter.reason == reason
    assert isinstance(caught.value.error, in_processes.Closed) == (what == "closed")
    assert caught.value.record.attempt == 1


@pytest.mark.parametrize(("task", "reason"), [("two_families", "exhausted"), ("gives_up", "not retryable")])
async def test_the_policy_judges_all_bases_of_an_error(app, task, reason):
    """On and give_up_on see every base class of an error of a process."""
    async with app.running():
        with pytest.raises(JobFailed) as caught:
            await (await getattr(in_processes, task).enqueue()).result(timeout=10)

    assert caught.value.reason == reason
    assert caught.value.record.attempt == (2 if task == "two_families" else 1)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("SIGSEGV", r"the process of this job \(pid \d+\) was killed by SIGSEGV \(signal 11\)"),
        ("SIGKILL", r"the process of this job \(pid \d+\) was killed by SIGKILL \(signal 9\)"),
    ],
)
async def test_a_killed_process_says_by_which_signal(app, how, text):
    """The signal is named, and the next job has another process."""
    async with app.running():
        first = await process_of(app)
        with pytest.raises(JobFailed, match=text):
            await (await in_processes.end.enqueue(how)).result(timeout=10)

        assert await process_of(app) != first


async def test_a_copy_of_a_process_is_no_second_process(app):
    """A function that forks, and whose copy leaves it with SystemExit, has one answer and goes on in one process."""
    async with app.running():
        first = await process_of(app)
        await (await in_processes.end.enqueue("fork")).result(timeout=10)

        assert await process_of(app) == first


@pytest.mark.parametrize("data", [b"hello\n", b"\x00\x00\x00\x00", b"\x00\x00\x00\x01\xc1", b"\xff" * 9])
async def test_bytes_that_are_no_frame_end_only_their_job(app, data):
    """Garbage on the protocol's socket fails the job and ends that process; the worker goes on."""
    async with app.running():
        first = await process_of(app)
        with pytest.raises(JobFailed, match="the process of this job broke the protocol"):
            await (await in_processes.corrupt.enqueue(data)).result(timeout=4)

        assert await process_of(app) != first


# ── what ends with them ──


async def test_nothing_else_has_the_socket(app, caplog):
    """Neither a program nor a copy of the process inherits the protocol; what a copy logs is printed instead."""
    async with app.running():
        job = await in_processes.count_sockets.enqueue()
        own, started, forked = await job.result(timeout=10)

    assert (own, started, forked) == (1, 0, 0)
    assert "copy: a copy logs" in printed(caplog, job)


async def test_processes_are_used_again_and_end_with_the_worker(app):
    """Jobs share an idle process; when the worker stops, it ends."""
    async with app.running():
        first = await process_of(app)
        assert await process_of(app) == first
        assert in_processes.is_running(first)

    assert not in_processes.is_running(first)


async def test_what_a_function_changes_in_its_process_ends_with_it(app, tmp_path):
    """Working directory, file mask, context, signal handlers and timers are as before for the next job there."""
    async with app.running():
        before = await (await in_processes.describe_process.enqueue()).result(timeout=10)
        await (await in_processes.change_process.enqueue(str(tmp_path))).result(timeout=10)
        after = await (await in_processes.describe_process.enqueue()).result(timeout=10)

    assert after == before


@pytest.mark.parametrize("change", ["change_interpreter", "close_streams"])
async def test_what_a_function_changes_in_its_interpreter_ends_with_it(app, caplog, change):
    """Environment, locale, warnings, decimals, collector, logging, hooks and streams are as before for the next job."""
    async with app.running():
        before = await (await in_processes.describe_interpreter.enqueue()).result(timeout=10)
        for _ in range(2):
            await (await app.tasks[f"tests.support.in_processes.{change}"].enqueue()).result(timeout=10)
        job = await in_processes.describe_interpreter.enqueue()
        assert await job.result(timeout=10) == before

    assert printed(caplog, job) == ["printed"]
    assert [record.job_id for record in caplog.records if record.message == "logged"][1:] == [job.id]


async def test_a_seed_ends_with_its_job(app):
    """The next job in a process draws other random numbers than after the seed that a job has set."""
    async with app.running():
        drawn = [await (await in_processes.draw.enqueue()).result(timeout=10) for _ in range(4)]

    assert len(set(drawn)) == 4


async def pids_in(path):
    """Read the process ids in a file, as soon as they are there."""
    with anyio.fail_after(5):
        while not (path.exists() and path.read_text()):  # noqa: ASYNC110 - another process cannot set an event
            await anyio.sleep(0.01)
    return [int(pid) for pid in path.read_text().split()]


async def gone(pids):
    """Wait until all of these have ended."""
    with anyio.fail_after(2):
        while any(in_processes.is_running(pid) for pid in pids):  # noqa: ASYNC110 - the same
            await anyio.sleep(0.01)


async def test_a_time_limit_ends_what_a_process_started(app, tmp_path):
    """The programs that a function waits for are killed with it."""
    async with app.running():
        await process_of(app)
        job = await in_processes.start_and_overrun.enqueue(str(tmp_path / "pids"))
        with pytest.raises(JobFailed, match="took longer"):
            await job.result(timeout=10)
        pids = await pids_in(tmp_path / "pids")
        assert len(pids) == 2
        await gone(pids)


async def test_a_stop_ends_what_a_process_started(app, tmp_path):
    """A worker that stops leaves no process behind, and no program of one."""
    async with app.running(grace=0.0):
        await in_processes.start_and_wait.enqueue(str(tmp_path / "pids"))
        pids = await pids_in(tmp_path / "pids")
        assert all(in_processes.is_running(pid) for pid in pids)
    await gone(pids)


SCRIPT = """
import os
import sys
import time
import anyio
from tests.support import in_processes
from taskcore import App

app = App("memory://", processes=1)
app.include(in_processes.router)

async def main():
    async with app.running():
        job = await in_processes.start_and_wait.enqueue(sys.argv[1])
        while not os.path.exists(sys.argv[1]):
            await anyio.sleep(0.01)
        if "copied" in sys.argv and not os.fork():
            time.sleep(4)
            os._exit(0)
        print("ready", flush=True)
        await job.result()

if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.mark.parametrize("how", ["alone", "copied"])
async def test_a_killed_worker_leaves_nothing_behind(tmp_path, how):
    """SIGKILL of a worker ends its process and the program of that in two seconds, even if a copy of it lives."""
    script, path = tmp_path / "killed_worker.py", tmp_path / "pids"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(in_processes.__file__).parents[2])}
    async with await anyio.open_process(
        [sys.executable, "-W", "ignore", str(script), str(path), how], env=environment
    ) as worker:
        assert (await worker.stdout.receive()).startswith(b"ready")
        pids = await pids_in(path)
        assert all(in_processes.is_running(pid) for pid in pids)
        worker.kill()
        await gone(pids)


# ── where functions are found ──

MAIN = """
import anyio
from taskcore import App
{extra}
app = App("memory://", processes=1)

@app.task(runs_in="process")
def add(a: int, b: int) -> int:
    return a + b

async def main():
    async with app.running():
        print(await (await add.enqueue(1, 2)).result(timeout=10))

if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.mark.parametrize("as_module", [False, True])
def test_tasks_of_the_main_module(tmp_path, as_module):
    """A program's own tasks are found in its processes, run by file or, with relative imports, by name."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "prices.py").touch()
    (package / "main.py").write_text(MAIN.format(extra="from . import prices" if as_module else ""))
    command = ["-m", "shop.main"] if as_module else ["shop/main.py"]
    ran = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=15
    )

    assert (ran.stdout, ran.stderr) == ("3\n", "")


async def test_windows_is_refused(app, monkeypatch):
    """Where a process cannot be ended with all that it started, a worker with such tasks says so at its start."""
    monkeypatch.setattr(runner, "os", types.SimpleNamespace(name="nt"))

    with pytest.raises(InvalidSetting, match="so that they run in threads") as caught:
        hosting.make_worker(app.components, app.settings, app.tasks)
    assert in_processes.where.name in caught.value.facts
    runner.require_processes([])
