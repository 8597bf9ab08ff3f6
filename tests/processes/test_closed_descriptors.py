"""A function that closes the connection of its process to the worker."""

from __future__ import annotations

import os

import anyio
import pytest

from taskcore import App, Dead, Retry
from tests.support import closing, in_processes

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name == "nt", reason="descriptors of Unix")]


@pytest.mark.parametrize("name", ["close_all", "reuse_all"])
async def test_a_job_whose_answer_is_lost_has_failed_at_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """A job without a time limit that closed the connection of its process fails, says why, and the next one runs."""
    app = App("memory://", retry=Retry(attempts=1), processes=1)
    app.include(closing.router)
    app.include(in_processes.router)
    async with app.running(grace=0.1):
        with anyio.fail_after(20):
            outcome = await (await getattr(closing, name).enqueue()).outcome()
            assert await (await in_processes.where.enqueue(in_processes.Point(0, 0))).result()
    assert isinstance(outcome, Dead)
    assert outcome.record is not None
    assert outcome.record.type == "ProcessError"
    assert "exited with code 74" in outcome.record.message
    assert "has closed the connection to the worker" in caplog.text
