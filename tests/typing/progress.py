"""Progress and logs as type checkers see them; read by them, never run. See api.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from taskcore import App, current
from taskcore.progress import (
    AsyncTracked,
    JobLog,
    JobLogHandler,
    JobLogLine,
    JobProgress,
    Progress,
    ProgressReader,
    Tracked,
)

app = App("memory://")


@app.task
async def work(rows: list[str], pages: AsyncIterator[bytes]) -> int:
    """Tell in the loop."""
    progress = assert_type(await current().progress(total=10, message="begin", resume=True), Progress)
    again = assert_type(current().progress(), Progress)
    again.update(message="going on")
    progress.advance()
    progress.advance(0.5, message="half")
    progress.update(3, total=5)
    assert_type(progress.value, int | float)
    assert_type(progress.total, int | float | None)
    assert_type(current().progress(rows), Tracked[str])
    async for row in current().progress(rows, resume=True):
        assert_type(row, str)
    async for page in current().progress(pages, total=3):
        assert_type(page, bytes)
    assert_type(current().progress(pages), AsyncTracked[bytes])
    current().log("%d rows", 5)
    return 1


@app.task
def plain(rows: list[int]) -> None:
    """Tell in a thread."""
    for row in current().progress(rows):
        assert_type(row, int)


def mistakes(pages: AsyncIterator[bytes]) -> None:
    """Find wrong uses."""
    current().progress(10)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    current().progress(totl=10)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    current().progress().advance("one")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    current().log()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    for _ in current().progress(pages):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]
        pass


async def read() -> None:
    """Read what a job tells."""
    job = await work.enqueue([], pages=None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    reader = assert_type(job.progress(), ProgressReader)
    assert_type(await reader, JobProgress | None)
    async for seen in job.progress():
        assert_type(seen, JobProgress)
        assert_type(seen.fraction, float | None)
    assert_type(await app.job("x").log(), JobLog)
    async for line in job.log():
        assert_type(line, JobLogLine)
    await job.progress("x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def without_a_loop() -> None:
    """Read in programs without an event loop."""
    job = plain.sync.enqueue([1])
    assert_type(job.progress().read(), JobProgress | None)
    for seen in job.progress():
        assert_type(seen, JobProgress)
    assert_type(job.log().read(), JobLog)
    for line in job.log():
        assert_type(line, JobLogLine)
    JobLogHandler(level=20)
