"""What a process tells before its answer: taken by the worker, or the failure of its job."""

from __future__ import annotations

import anyio
import pytest

from taskcore import App, JobFailed, Retry
from taskcore.processes.process import _Waiting
from tests.support import in_processes


@pytest.mark.parametrize("data", [b"\xc1", b"{", b'{"value": "many"}'])
@pytest.mark.anyio
async def test_progress_that_cannot_be_taken_fails_its_job(data: bytes) -> None:
    """What a process tells and the worker cannot take is that job's failure, and is not dropped; the worker goes on."""
    app = App("memory://", retry=Retry(attempts=1), processes=1)
    app.include(in_processes.router)

    async def pid() -> int:
        found: int = (await (await in_processes.where.enqueue(in_processes.Point(0, 0))).result(timeout=10))[0]
        return found

    async with app.running():
        first = await pid()
        with pytest.raises(JobFailed, match="the progress of a job"):
            await (await in_processes.tell_nonsense.enqueue(data)).result(timeout=10)

        assert await pid() != first


def test_what_a_process_tells_a_loop_that_has_ended_is_dropped() -> None:
    """Neither its answer nor its progress is an error after the end of the loop; an error in a living loop is one."""
    waiting: list[_Waiting] = []

    def fail() -> None:
        raise ValueError("in the loop")

    async def main() -> None:
        waiting.append(_Waiting(lambda message, reply: None))
        with pytest.raises(ValueError, match="in the loop"):
            await anyio.to_thread.run_sync(waiting[0].call, fail)

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)
        waiting.pop().call(fail)
