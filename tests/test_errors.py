"""Errors can be completed: the copy with more facts has the class, the text and all that the error knew."""

from __future__ import annotations

import pytest
from redis.exceptions import OutOfMemoryError

from taskcore import App, BrokerUnavailable, InvalidArguments, KeyConflict
from taskcore.backends.memory import MemoryBackend
from taskcore.connections.redis.refusals import CommandRefused, refused
from taskcore.errors import EnqueueUncertain, JobFailed, StoreRequired, UnsafeBroker

ERRORS = [
    InvalidArguments("wrong", facts=["a"], fix="b"),
    EnqueueUncertain("perhaps", job_ids=["1"]),
    KeyConflict("other arguments", job_id="1"),
    JobFailed("dead", job_id="1", error=ValueError("x"), reason="exhausted"),
    StoreRequired("needs a store"),
    UnsafeBroker("unsafe", unsafe=["a check"]),
    refused(OutOfMemoryError("used memory > 'maxmemory'", status_code="OOM"), "here"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_copy_with_more_facts_keeps_everything_else(error):
    """An error keeps its class, arguments and attributes, whatever its constructor takes."""
    more = error.with_facts("one more")
    assert type(more) is type(error)
    assert more.args == error.args
    assert more.facts == (*error.facts, "one more")
    assert more.public_facts == (*error.public_facts, "one more")
    without = {"facts": (), "public_facts": ()}
    assert {**vars(more), **without} == {**vars(error), **without}
    assert "one more" not in error.facts


@pytest.mark.anyio
async def test_a_batch_that_a_server_refuses_raises_its_error_with_the_jobs():
    """The caller of enqueue_many gets the server's refusal, and `jobs` that says that no call was sent."""

    class Full(MemoryBackend):
        async def publish(self, batch):
            raise refused(OutOfMemoryError("used memory > 'maxmemory'", status_code="OOM"), "here")

    app = App(Full(), store="none")

    @app.task(name="work")
    async def work(number: int) -> None: ...

    async with app:
        with pytest.raises(BrokerUnavailable, match="2 of 2 calls were not sent") as caught:
            await app.enqueue_many([work.call(1), work.call(2)])
    assert isinstance(caught.value, CommandRefused)
    assert caught.value.kind == "OOM"
    assert list(caught.value.jobs) == [None, None]
