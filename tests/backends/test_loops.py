"""Any loop, any thread: calls reach the loop in which the app is open, or are refused before they hang."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from taskcore import App, NotRunning
from taskcore.faults import NatsServer, RabbitServer, RedisServer
from tests.support.real import serving

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # loops that end with open apps
]

SERVERS = {"redis": RedisServer, "nats": NatsServer, "rabbitmq": RabbitServer}


@pytest.fixture(scope="module", params=["memory", *SERVERS])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run one server of each kind for all tests of this file."""
    if request.param == "memory":
        yield "memory://"
        return
    with serving(SERVERS[request.param]) as server:
        yield server.url


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect what a test leaves in loops that have ended, while its warnings are expected."""
    yield
    gc.collect()


@pytest.fixture
def app(url: str, request: pytest.FixtureRequest) -> App:
    """Make an app with one task, in a queue of its own."""
    store = "memory://" if url.startswith("amqp") else None
    app = App(url if not store else f"{url}?min_queue_age=0", store=store, grace=1, send_timeout=20)
    queue = f"q{abs(hash(request.node.name))}"

    @app.task(name="double", queue=queue)
    async def double(number: int) -> int:
        return number * 2

    return app


async def send(app: App, number: int = 2) -> Any:
    """Send one job."""
    return await app.tasks["double"].enqueue(number)


@contextmanager
def two_loops() -> Iterator[tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop]]:
    """Make two loops for this thread."""
    loops = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        yield loops
    finally:
        for loop in loops:
            loop.close()


def in_thread(work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run the work in a loop of a thread of its own; return its answer or its error."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append(asyncio.run(work))
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    return answers


def test_blocking_and_async_callers_in_one_process(app: App) -> None:
    """After a blocking call has opened the app, coroutines of other loops send, ask and batch, entered or not."""
    app.tasks["double"].sync.enqueue(1)

    async def entered() -> None:
        async with app:
            job = await send(app)
            assert await job.status() in {"queued", "unknown"}

    async def bare() -> int:
        jobs = await app.enqueue_many([app.tasks["double"].call(number) for number in range(3)])
        with pytest.raises(TimeoutError):
            await jobs[0].outcome(timeout=0)
        return (await app.stats(jobs[0].queue)).ready

    for _ in range(2):
        asyncio.run(entered())
    assert asyncio.run(bare()) == 6
    assert app.sync.stats(app.tasks["double"].spec.queue).ready == 6


def test_a_fixture_is_left_in_another_task(app: App) -> None:
    """An app with its worker may be entered in one task and left in another of the same loop, as fixtures are."""

    async def fixture() -> AsyncIterator[App]:
        async with app.running():
            yield app

    async def test() -> int:
        return int(await (await send(app)).result(timeout=10))

    loop = asyncio.new_event_loop()
    generator = fixture()
    loop.run_until_complete(anext(generator))
    assert loop.run_until_complete(test()) == 4
    assert loop.run_until_complete(anext(generator, None)) is None
    assert not asyncio.all_tasks(loop)
    loop.close()


def test_a_loop_that_does_not_run_is_refused(app: App) -> None:
    """An app that is open in a loop of this thread that stands still is refused in every other loop, and says why."""
    with two_loops() as (first, second):
        first.run_until_complete(app.__aenter__())
        job = first.run_until_complete(send(app))
        for ask in (send(app), job.outcome(timeout=1), job.status(), job.cancel(), app.__aenter__(), app.stats()):
            with pytest.raises(NotRunning, match="does not run now"):
                second.run_until_complete(ask)
        with pytest.raises(NotRunning, match="does not run now"):
            app.tasks["double"].sync.enqueue(3)
        first.run_until_complete(app.__aexit__(None, None, None))


ENDED = """
import asyncio, sys
from taskcore import App, NotRunning

app = App(sys.argv[1], store=sys.argv[2] or None)

@app.task(queue="ended")
async def work() -> None: ...

async def again():
    try:
        await work.enqueue()
    except NotRunning as error:
        print(error.what)
    async with app:
        return await work.enqueue()

asyncio.run(app.__aenter__())
assert asyncio.run(again()).id
asyncio.run(app.__aenter__())
assert work.sync.enqueue().id
"""


def test_a_loop_that_has_ended_is_forgotten(app: App, url: str) -> None:
    """An app that was never left in a loop that has ended opens anew in the next one, and for blocking calls."""
    store = "memory://" if url.startswith("amqp") else ""  # in a process of its own: its connections are left open
    command = [sys.executable, "-W", "ignore", "-c", ENDED, app.settings.url, store]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, "has ended" in done.stdout) == (0, True), done.stderr


def test_a_worker_in_another_loop_is_refused(app: App) -> None:
    """A worker runs in the loop of its connections; elsewhere it is refused, with the way out."""
    app.tasks["double"].sync.enqueue(1)

    async def work() -> None:
        async with app.running():
            raise AssertionError

    with pytest.raises(NotRunning, match=r"app\.sync\.running"):
        asyncio.run(work())
    with pytest.raises(NotRunning, match=r"app\.sync\.running"):
        asyncio.run(app.run_worker())
    with app.sync.running():
        assert app.tasks["double"].sync.enqueue(4).result(timeout=10) == 8


def test_dead_letters_in_another_loop_are_refused(app: App) -> None:
    """What reads page after page is not carried to another loop; it says where it can be used."""
    app.tasks["double"].sync.enqueue(1)

    async def read() -> None:
        assert app.dead_letters

    with pytest.raises(NotRunning, match=r"app\.sync"):
        asyncio.run(read())


def test_threads_of_a_running_app(app: App) -> None:
    """Threads of a program whose app is open send by blocking calls, by a portal, and in loops of their own."""

    async def main() -> None:
        async with app.running():
            double = app.tasks["double"]
            jobs = [
                (await anyio.to_thread.run_sync(double.sync.enqueue, 1)).job,
                await anyio.to_thread.run_sync(anyio.from_thread.run, double.enqueue, 2),
                await anyio.to_thread.run_sync(asyncio.run, double.enqueue(3)),
            ]
            assert [await job.result(timeout=10) for job in jobs] == [2, 4, 6]

    anyio.run(main)


def test_a_call_is_cancelled_from_afar(app: App) -> None:
    """A caller in another loop that stops waiting cancels its wait at home, and nothing is left there."""
    app.tasks["double"].sync.enqueue(1)

    async def impatient() -> None:
        job = await send(app)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(job.outcome(), 0.1)

    asyncio.run(impatient())
    before = app.run_blocking(count_tasks)  # a store may keep what watches for the next wait
    asyncio.run(impatient())
    assert app.run_blocking(count_tasks) <= before


def test_many_loops_at_once(app: App) -> None:
    """Programs that enter the app in short-lived loops of many threads all send, or learn that its loop has ended."""

    async def view(number: int) -> Any:
        async with app:
            return await send(app, number)

    answers: list[Any] = []
    threads = [threading.Thread(target=lambda n=n: answers.extend(in_thread(view(n)))) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    answers = [answer for answer in answers if not isinstance(answer, ResourceWarning)]  # of loops that have ended
    assert len(answers) == 6
    assert all(hasattr(answer, "id") or isinstance(answer, NotRunning) for answer in answers), answers
    assert in_thread(view(7))[0].id


async def count_tasks() -> int:
    """Count the tasks of this loop."""
    await asyncio.sleep(0.2)
    return len(asyncio.all_tasks())
