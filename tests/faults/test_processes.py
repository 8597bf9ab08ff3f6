"""Worker processes: killed, frozen, stopped, and dead at a crash point; their histories stay."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import anyio
import pytest

from taskcore.faults.crash import CRASH_AT, CRASHED, install_from_environment
from taskcore.faults.processes import WorkerProcess
from taskcore.testing.history import History

pytestmark = pytest.mark.anyio

SCRIPT = Path(__file__).parents[1] / "support" / "toy_worker.py"


async def test_to_its_end(tmp_path):
    """A child that ends by itself has a status, an output and a history."""
    async with WorkerProcess(SCRIPT, 3, folder=tmp_path, who="w1") as worker:
        assert await worker.wait() == 0
    assert not worker.crashed
    assert worker.output().splitlines() == ["ready 3", "did 0", "did 1", "did 2"]
    entries = History.load([worker.history]).entries
    assert [(entry.who, entry.kind) for entry in entries] == [("w1", "start"), ("w1", "end")] * 3


async def test_a_crash_point(tmp_path):
    """A child ends at the point and the visit that the test names, and the test's history says which one died."""
    history = History()
    async with WorkerProcess(SCRIPT, 99, folder=tmp_path, crash_at="run.returned", nth=2, history=history) as worker:
        assert await worker.wait() == CRASHED
        assert worker.crashed
    kinds = [entry.kind for entry in History.load([worker.history]).entries]
    assert kinds == ["start", "end", "start"]
    assert [(entry.kind, entry.who) for entry in history.entries] == [("died", "worker")]


async def test_kill(tmp_path):
    """Killing (kill -9) ends it at once; it is recorded."""
    history = History()
    async with WorkerProcess(SCRIPT, 9_999, folder=tmp_path, history=history) as worker:
        await worker.says("did 5")
        worker.kill()
        assert worker.status == -signal.SIGKILL
    assert [entry.facts["how"] for entry in history.entries] == ["killed"]
    assert len(History.load([worker.history]).entries) >= 10


async def test_freeze(tmp_path):
    """A frozen child does nothing, and goes on when it is let."""
    async with WorkerProcess(SCRIPT, 9_999, folder=tmp_path) as worker:
        await worker.says("did 3")
        worker.pause()
        await anyio.sleep(0.1)
        before = worker.output(9_999)
        await anyio.sleep(0.1)
        assert worker.output(9_999) == before
        assert worker.status is None
        worker.resume()
        await worker.says(f"did {before.count('did') + 3}")


async def test_terminate(tmp_path):
    """SIGTERM is a request, which the child may answer as it likes."""
    async with WorkerProcess(SCRIPT, 9_999, folder=tmp_path) as worker:
        await worker.says("ready")
        worker.terminate()
        assert await worker.wait() == 3


async def test_waiting_has_a_limit(tmp_path):
    """Waiting has a limit, and the error has the child's output; so has an error of the test."""
    with pytest.raises(TimeoutError, match=r"did \d"):
        async with WorkerProcess(SCRIPT, 9_999, folder=tmp_path) as worker:
            await _wait_when_working(worker)
    with pytest.raises(RuntimeError, match="ended without saying 'bye'"):
        async with WorkerProcess(SCRIPT, 1, folder=tmp_path, who="w2") as worker:
            await worker.says("bye")
    with pytest.raises(TimeoutError, match="did not say 'bye'"):
        async with WorkerProcess(SCRIPT, 9_999, folder=tmp_path, who="w3") as worker:
            await worker.says("bye", within=0.05)
    with pytest.raises(LookupError) as failure:
        async with WorkerProcess(SCRIPT, 9_999, folder=tmp_path, who="w4") as worker:
            await _fail_when_ready(worker)
    assert "the end of the output of w4" in failure.value.__notes__[0]
    assert worker.status == -signal.SIGKILL


async def test_nothing_is_left_of_a_killed_test(tmp_path):
    """If the test's own process is killed, its children are too."""
    program = textwrap.dedent(f"""
        import anyio
        from taskcore.faults.processes import WorkerProcess

        async def main():
            async with WorkerProcess({str(SCRIPT)!r}, 99999, folder={str(tmp_path)!r}) as worker:
                await worker.says("ready")
                print(worker.pid, flush=True)
                await anyio.sleep(60)

        anyio.run(main)
    """)
    test = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    )
    assert test.stdout is not None
    child = int(test.stdout.readline())
    test.kill()
    test.communicate()
    with anyio.fail_after(5):
        while _is_alive(child):  # noqa: ASYNC110 - another process has no event
            await anyio.sleep(0.02)


async def _wait_when_working(worker: WorkerProcess) -> None:
    await worker.says("did 1")
    await worker.wait(within=0.1)


async def _fail_when_ready(worker: WorkerProcess) -> None:
    await worker.says("ready")
    raise LookupError("of the test")


def _is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_without_the_variable_no_point_is_armed(monkeypatch):
    """Without the variable nothing is armed; with a senseless one the child says so."""
    monkeypatch.delenv(CRASH_AT, raising=False)
    assert not install_from_environment()
    monkeypatch.setenv(CRASH_AT, "settle.ended:soon")
    with pytest.raises(ValueError, match=r"settle\.ended:2"):
        install_from_environment()
