"""What a running function holds: numbers that can be reported, items that count themselves, and what is refused."""

from __future__ import annotations

import threading
import timeit

import anyio
import pytest

from taskcore import InvalidArguments, NotRunning
from taskcore.progress import AsyncTracked, Progress, Tracked
from taskcore.progress.handles import MESSAGE_LIMIT
from taskcore.progress.record import StoredProgress


class ProgressHost:
    """A place with a saved position."""

    def __init__(self, value=0):
        self.stored = StoredProgress(value=value, total=10, message="before") if value else None
        self.reads = 0

    def now(self):
        """Stand still."""
        return 100.0

    async def saved(self):
        """Read it."""
        return self.saved_now()

    def saved_now(self):
        """Read it, blocking."""
        self.reads += 1
        return self.stored


def make(value=0, *, resume=False):
    """Make a progress, with what an earlier attempt has saved."""
    progress = Progress(ProgressHost(value), attempt=2, fence=7)
    if resume:
        progress.ask_to_resume()
    return progress


def test_telling_changes_what_is_written():
    """Position, total and message are those that were told last, with the start that tells them."""
    progress = make()
    progress.update(total=5, message="reading")
    progress.advance()
    progress.advance(2, message="writing")
    assert (progress.value, progress.total, progress.message) == (3, 5, "writing")
    told = progress.take_change()
    assert (told.value, told.total, told.message, told.attempt, told.fence) == (3, 5, "writing", 2, 7)
    assert not progress.changed
    progress.update(0)
    assert progress.changed
    assert progress.value == 0


@pytest.mark.parametrize(
    "tell",
    [
        lambda progress: progress.advance(float("nan")),
        lambda progress: progress.advance("1"),
        lambda progress: progress.advance(True),
        lambda progress: progress.update(float("inf")),
        lambda progress: progress.update(total=-1),
        lambda progress: progress.update(total="many"),
        lambda progress: progress.advance(1, message=b"bytes"),
        lambda progress: progress.advance(1, message="x" * (MESSAGE_LIMIT + 1)),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_way_out(tell):
    """A refused call changes nothing, and its error says what to give instead."""
    progress = make()
    progress.update(3, total=4, message="ok")
    with pytest.raises(InvalidArguments) as refused:
        tell(progress)
    assert refused.value.fix
    assert (progress.value, progress.total, progress.message) == (3, 4, "ok")


def test_a_message_has_no_control_characters():
    """Control characters, line ends and halves of surrogate pairs are told as escapes."""
    progress = make()
    progress.advance(1, message="a\x1b[31m\nb\ud800")
    assert progress.message == "a\\x1b[31m\\nb\\ud800"


@pytest.mark.anyio
async def test_a_saved_position_is_read_once():
    """Awaiting a progress that resumes reads it; without ``resume`` no store is asked."""
    resumed, fresh = make(4, resume=True), make(4)
    assert (await resumed).value == 4
    assert (await resumed) is resumed
    assert resumed._place.reads == 1
    assert (resumed.total, resumed.message, resumed.start) == (10, "before", 4)
    assert (await fresh).value == 0
    assert fresh._place.reads == 0


def test_a_position_that_is_not_read_yet_is_no_position():
    """Reading or moving it before is refused, and nothing is written that would overwrite what is saved."""
    progress = make(4, resume=True)
    for use in (lambda: progress.value, progress.advance, lambda: progress.update(3)):
        with pytest.raises(NotRunning, match="await current"):
            use()
    assert not progress.changed
    progress.update(total=20)
    progress.resume_now()
    assert (progress.value, progress.total) == (4, 20)


@pytest.mark.parametrize("kind", [list, tuple, iter, set, lambda numbers: (one for one in numbers)])
def test_items_count_when_the_next_is_asked_for(kind):
    """An item whose body breaks or raises does not count; items that were done before are left out."""
    progress = make(2, resume=True)
    seen = []
    for item in Tracked(kind(range(6)), progress):
        seen.append((item, progress.value))
        if item == 4:
            break
    assert seen == [(2, 2), (3, 3), (4, 4)]
    assert progress.value == 4


@pytest.mark.anyio
async def test_items_in_an_async_loop():
    """Items of both kinds are iterated by ``async for``, and go on from the saved position."""

    async def rows():
        for number in range(6):
            yield number

    first, second = make(2, resume=True), make(2, resume=True)
    assert [item async for item in Tracked(range(6), first)] == [2, 3, 4, 5]
    assert [item async for item in AsyncTracked(rows(), second)] == [2, 3, 4, 5]
    assert first.value == second.value == 6


def test_several_threads_of_one_job_lose_nothing():
    """Each call of ``advance`` counts, whichever thread makes it."""
    progress = make()

    def work():
        for _ in range(20_000):
            progress.advance()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.value == 80_000


def test_advancing_costs_no_input_or_output():
    """A call takes far less than a store's fastest answer, so a loop over rows may make one for each."""
    progress = make()
    assert min(timeit.repeat(progress.advance, number=10_000, repeat=5)) / 10_000 < 5e-6


def test_awaiting_works_outside_of_anyio():
    """A progress is awaited by any event loop's task."""

    async def main():
        return (await make(3, resume=True)).value

    assert anyio.run(main) == 3
