"""Being open in the loops of many threads: which loop is the app's, and which entry an exit ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from taskcore import App, NotRunning
from taskcore.toolkit.app_loop import AppLoop, Openings


class LoopThread:
    """A thread with a loop that runs until it is ended, with whatever is open in it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    def begin(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Begin work in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run work in the loop, and wait for it."""
        return self.begin(work).result(timeout=10)

    def end(self) -> None:
        """Close the loop."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        assert self.loop.is_closed()


@pytest.fixture
def loop_thread() -> Iterator[Callable[[], LoopThread]]:
    """Make threads with loops, which end with the test."""
    made: list[LoopThread] = []

    def make() -> LoopThread:
        made.append(LoopThread())
        return made[-1]

    yield make
    for thread in made:
        thread.end()


@pytest.fixture
def app() -> App:
    """Make an app with one task."""
    app = App("memory://")

    @app.task(name="double")
    async def double(number: int) -> int:
        return number * 2

    return app


async def send(app: App) -> str:
    """Send one job."""
    return (await app.tasks["double"].enqueue(2)).id


def test_a_late_exit_closes_nothing_that_is_open_now(app: App, loop_thread: Callable[[], LoopThread]) -> None:
    """An exit from an opening whose loop has ended leaves the app open for those who opened it since."""
    first, guest, second = loop_thread(), loop_thread(), loop_thread()
    first.do(app.__aenter__())
    guest.do(app.__aenter__())
    first.end()
    second.do(app.__aenter__())
    guest.do(app.__aexit__(None, None, None))
    assert second.do(send(app))
    second.do(app.__aexit__(None, None, None))
    with pytest.raises(NotRunning, match="not open"):
        second.do(send(app))
    guest.do(app.__aenter__())
    assert guest.do(send(app))
    guest.do(app.__aexit__(None, None, None))


def test_the_client_of_a_loop_that_has_ended_is_refused(app: App, loop_thread: Callable[[], LoopThread]) -> None:
    """A call that began with the connections of a loop that has ended is refused; it circles nowhere."""
    first, guest, second = loop_thread(), loop_thread(), loop_thread()
    first.do(app.__aenter__())
    guest.do(app.__aenter__())
    calls = [app.tasks["double"].call(number) for number in range(2)]
    began = [app._host.send(calls[0]), app._host.client.send_many(calls)]
    first.end()
    second.do(app.__aenter__())
    for call in began:
        with pytest.raises(NotRunning, match="has ended"):
            guest.do(call)
    second.do(app.__aexit__(None, None, None))


class Place:
    """What an app opens, with a note of what happens in which loop.

    :param closing: runs while it closes.
    """

    def __init__(self, closing: Callable[[], Coroutine[Any, Any, None]] | None = None) -> None:
        self.opened_in: list[Any] = []
        self.renewals = 0
        self.changes = 0
        self._closing = closing
        self.openings = Openings(self._connect, renew=self._renew)

    async def _connect(self, app_loop: AppLoop) -> AsyncExitStack:
        assert app_loop.loop is asyncio.get_running_loop()
        self.opened_in.append(app_loop.loop)
        exits = AsyncExitStack()
        if self._closing is not None:
            exits.push_async_callback(self._closing)
        return exits

    def _renew(self) -> None:
        self.renewals += 1
        threading.Event().wait(0.2)  # a long time for another thread to come


def test_one_of_many_loops_renews_what_has_ended(loop_thread: Callable[[], LoopThread]) -> None:
    """Of loops that find at once that the app's loop has ended, one renews and opens it; the others join."""
    place, first = Place(), loop_thread()
    first.do(place.openings.enter())
    first.end()
    threads = [loop_thread() for _ in range(4)]
    for entry in [thread.begin(place.openings.enter()) for thread in threads]:
        entry.result(timeout=10)
    assert (place.renewals, len(place.opened_in)) == (1, 2)


def test_an_entry_while_the_app_closes_waits_for_its_loop(loop_thread: Callable[[], LoopThread]) -> None:
    """A loop that comes while another one closes the app is carried there, and opens it there anew."""
    entries: list[Any] = []
    first, guest = loop_thread(), loop_thread()

    async def closing() -> None:
        if not entries:
            entries.append(guest.begin(place.openings.enter()))
            await asyncio.sleep(0.2)

    place = Place(closing)
    first.do(place.openings.enter())
    first.do(place.openings.leave())
    entries[0].result(timeout=10)
    assert place.opened_in == [first.loop, first.loop]
    guest.do(place.openings.leave())
    guest.do(place.openings.enter())
    assert place.opened_in == [first.loop, first.loop, guest.loop]
    guest.do(place.openings.leave())


def test_a_loop_that_ends_in_the_middle_of_a_call_is_told(loop_thread: Callable[[], LoopThread]) -> None:
    """A call whose loop is closed between the look at it and the call is refused as one that has ended."""
    first, guest, app_loop = loop_thread(), loop_thread(), AppLoop()

    async def adopt() -> None:
        app_loop.adopt()

    async def work() -> None:
        raise AssertionError

    def late() -> Coroutine[Any, Any, None]:
        first.end()
        return work()

    first.do(adopt())
    with pytest.raises(NotRunning, match="has ended"):
        guest.do(app_loop.run(late))


def test_a_closing_that_is_cut_short_is_renewed(loop_thread: Callable[[], LoopThread]) -> None:
    """Connections whose closing ended with their loop are made anew for the next loop, and not used by it."""
    closes = threading.Event()

    async def closing() -> None:
        closes.set()
        await asyncio.sleep(60)

    first, guest, second = loop_thread(), loop_thread(), loop_thread()
    place = Place(closing)
    first.do(place.openings.enter())
    guest.do(place.openings.enter())
    first.do(place.openings.leave())
    exit_ = guest.begin(place.openings.leave())
    assert closes.wait(10)
    first.end()
    with pytest.raises(NotRunning, match="has ended"):
        exit_.result(timeout=10)
    second.do(place.openings.enter())
    assert (place.renewals, place.opened_in) == (1, [first.loop, second.loop])
