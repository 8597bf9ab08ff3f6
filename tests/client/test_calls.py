"""What one call may have instead of its task's options, options of the whole app, and handles from an id alone."""

from __future__ import annotations

import anyio
import msgspec
import pytest

from taskcore import App, Dead, Expired, InvalidSetting, JobFailed, Retry, Succeeded, current
from taskcore.envelope import decode_envelope

pytestmark = pytest.mark.anyio


@pytest.fixture
def app():
    """Make an app with a task that fails and one that is slow."""
    app = App("memory://", retry=Retry(attempts=2, base=0.0), timeout=30)
    app.starts = []

    @app.task(name="fails")
    async def fails() -> None:
        app.starts.append(current().attempt)
        raise ConnectionError

    @app.task(name="slow")
    async def slow(seconds: float) -> float:
        await anyio.sleep(seconds)
        return seconds

    return app


async def test_one_call_has_its_own_retry_and_timeout(app):
    """A call's numbers stand in place of its task's; what it does not give stays the task's."""
    fails, slow = app.tasks["fails"], app.tasks["slow"]
    async with app.running():
        for retry, attempts in ((None, 2), (1, 1), (4, 4), (Retry(attempts=3, base=0.0), 3)):
            app.starts.clear()
            outcome = await (await fails.using(retry=retry).enqueue()).outcome(timeout=5)
            assert (type(outcome), app.starts) == (Dead, list(range(1, attempts + 1)))
        late = await (await slow.using(timeout=0.05, retry=1).enqueue(9.0)).outcome(timeout=5)
        assert isinstance(late, Dead)
        assert late.record is not None
        assert "0.05 s" in late.record.message
        assert await (await slow.using(timeout=5).enqueue(0.01)).outcome(timeout=5) == Succeeded(0.01)


async def test_options_of_a_call_travel_only_if_given(app):
    """An envelope without them is what it was before, so that older workers read every envelope."""
    from taskcore.client.client import Client  # noqa: PLC0415 - one private verb is looked at

    async with app:
        client: Client = app._host.client
        plain = client._prepare(app.tasks["slow"].call(1.0), "1").envelope
        own = client._prepare(app.tasks["slow"].using(timeout=2, retry=3).call(1.0), "1").envelope
    assert set(msgspec.json.decode(plain)) == {"v", "id", "task", "args", "enqueued_at"}
    assert set(msgspec.json.decode(own)) - set(msgspec.json.decode(plain)) == {"timeout", "retry"}
    assert decode_envelope(own).retry.attempts == 3


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"retry": "often"},
        {"retry": -1},
        {"retry": True},
        {"retry": Retry(on=(OSError,))},
    ],
)
def test_impossible_options_are_refused(app, options):
    """What cannot work, or cannot travel, is refused at the call (TC104)."""
    with pytest.raises(InvalidSetting):
        app.tasks["slow"].using(**options)


async def test_a_task_may_expire(app):
    """A task's own ``expires`` counts from each call, unless the call has its own."""

    @app.task(name="brief", expires=0.05)
    async def brief() -> str:
        return "in time"

    async with app:
        late, fine = await brief.enqueue(), await brief.using(expires=60).enqueue()
        await anyio.sleep(0.1)
        async with app.running():
            assert await late.outcome(timeout=5) == Expired()
            assert await fine.outcome(timeout=5) == Succeeded("in time")


def test_the_app_has_a_time_limit(app):
    """The app's ``timeout`` is that of each task that sets none; a task may set none on purpose."""
    assert app.tasks["slow"].options.timeout == 30
    assert app.task(name="own", timeout=5)(lambda: None).options.timeout == 5
    assert app.task(name="without", timeout=None)(lambda: None).options.timeout is None


async def test_a_handle_from_an_id_alone(app):
    """A job of any task tells status and outcome, and can be cancelled, in any queue, by its id."""
    slow = app.tasks["slow"]
    async with app:
        waiting = await slow.using(queue="other", delay=60).enqueue(1.0)
        assert await app.job(waiting.id).status() == "scheduled"
        assert await app.job(waiting.id, queue="other").status() == "scheduled"
        assert await app.job(waiting.id).cancel()
        assert await app.job(waiting.id).status() == "cancelled"
        assert not await app.job("nothing").cancel()
        for nothing in (app.job("nothing"), slow.job("nothing")):
            with pytest.raises(TimeoutError, match="no record has this id: it may be wrong") as caught:
                await nothing.outcome(timeout=0)
            assert "*" not in str(caught.value)
        async with app.running():
            done, dead = await slow.enqueue(0.01), await app.tasks["fails"].enqueue()
            assert await app.job(done.id).result(timeout=5) == 0.01
            assert isinstance(await app.job(dead.id).outcome(timeout=5), Dead)
            with pytest.raises(JobFailed, match=rf"job {dead.id} is dead: exhausted"):
                await app.job(dead.id).result(timeout=5)
