"""Every order in which a worker, two timers and a caller that cancels can meet over one retry, on a model of a stream.

The worker writes the scheduled copy of the job that it holds, then ends that job. Each timer gets the copy when it is
due, moves it into the ready part, then ends the copy. Any of them may die before any of its writes; a copy whose lease
is over is handed out again, also while the first timer still goes on; a job that stands ready may be run and ended at
any time. The search visits every state that these steps can reach, and asks the real timers' own function what they do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeAlias

import pytest

from taskcore.backends.nats.timers import TRIES, next_step
from taskcore.connections.nats import Answer

NO_BYTES, ORIGINAL, MOVED = 0, 1, 3  #: numbers of what may stand in the ready part; the copy is number 2

#: After an answer: another try that expects this number, the end of the copy, or nothing.
Step: TypeAlias = int | Literal["end", "leave"]
Rule: TypeAlias = Callable[[Answer, int], Step]


class Timer(NamedTuple):
    """What it writes next, the number that it expects, and how often it has tried."""

    next: Literal["", "move", "end"] = ""
    expected: int = NO_BYTES
    tries: int = 0


class World(NamedTuple):
    """The stream, and how far each of those is who write to it."""

    ready: int = ORIGINAL
    scheduled: bool = False
    moved: tuple[int, ...] = ()  #: the ids of moves that the server remembers, which are what they expected
    ran: bool = False  #: the moved job was run and ended
    worker: Literal["copy", "end", "done", "dead"] = "copy"
    timers: tuple[Timer, ...] = (Timer(), Timer())
    remover: Literal["", "deleted", "told", "removed", "kept"] = ""

    @property
    def is_lost(self) -> bool:
        """The job is nowhere, was not run, and no caller takes it back."""
        somewhere = self.ready or self.scheduled or self.ran
        return not somewhere and self.remover in {"", "kept"}

    @property
    def is_over(self) -> bool:
        """Nothing of the job is left, and it was run or taken back."""
        return not self.ready and not self.scheduled and (self.ran or self.remover == "removed")


def carefully(answer: Answer, expected: int) -> Step:
    """Decide as the timers do."""
    return next_step(answer, expected=expected, copied=ORIGINAL)


def by_refusals(answer: Answer, expected: int) -> Step:
    """Take the second refusal, whatever the server found, for a sign that another timer has moved the job."""
    return "end" if b"error" not in answer.body or expected else ORIGINAL


def refused(found: int) -> Answer:
    """Return a refusal as servers write it."""
    text = b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: %d"},"stream":"s","seq":0}'
    return Answer(text % found, b"")


def moves(world: World, timer: Timer, *, errs: bool) -> Iterator[tuple[World, Answer]]:
    """Yield what the server makes of a move; one that errs may also fail to read what is there, and refuse for that."""
    if timer.expected in world.moved:
        yield world, Answer(b'{"stream":"s","seq":3,"duplicate": true}', b"")
    elif world.ready == timer.expected:
        yield world._replace(ready=MOVED, moved=(*world.moved, timer.expected)), Answer(b'{"stream":"s","seq":3}', b"")
    else:
        yield world, refused(world.ready)
    if errs:
        yield world, refused(NO_BYTES)


def timer_steps(world: World, index: int, rule: Rule, first: int, *, errs: bool) -> Iterator[World]:
    """Yield the worlds after this timer gets the copy, writes, or dies."""

    def with_timer(world: World, timer: Timer) -> World:
        return world._replace(timers=(*world.timers[:index], timer, *world.timers[index + 1 :]))

    timer = world.timers[index]
    if world.scheduled:
        yield with_timer(world, Timer("move", first))
    if timer.next:
        yield with_timer(world, Timer())
    if timer.next == "end":
        yield with_timer(world._replace(scheduled=False), Timer())
    elif timer.next == "move":
        for after, answer in moves(world, timer, errs=errs):
            step = rule(answer, timer.expected)
            if step == "end":
                yield with_timer(after, Timer("end"))
            elif isinstance(step, int) and timer.tries + 1 < TRIES:
                yield with_timer(after, Timer("move", step, timer.tries + 1))
            else:
                yield with_timer(after, Timer())


def worker_steps(world: World) -> Iterator[World]:
    """Yield the worlds after the worker writes or dies, its heir ends a job with a copy, or the moved job runs."""
    held = world.ready == ORIGINAL
    if world.worker in {"copy", "end"}:
        yield world._replace(worker="dead")
    if world.worker == "copy" and held:
        yield world._replace(worker="end", scheduled=True)
    elif world.worker == "end":
        yield world._replace(worker="done", ready=NO_BYTES if held else world.ready)
    elif world.worker == "dead" and held:
        yield world._replace(worker="end" if world.scheduled else "copy")
    if world.ready == MOVED:
        yield world._replace(ready=NO_BYTES, ran=True)


def remover_steps(world: World, *, tells: bool) -> Iterator[World]:
    """Yield the worlds after a caller takes back the copy, and first its job; then it tells the timers, and looks."""
    if world.remover == "" and world.scheduled and not world.ran:
        ready = NO_BYTES if world.ready == ORIGINAL else world.ready
        yield world._replace(remover="deleted", ready=ready, scheduled=False)
    elif world.remover == "deleted":
        quiet = tuple(Timer() if timer.next == "move" and tells else timer for timer in world.timers)
        yield world._replace(remover="told", timers=quiet)
    elif world.remover == "told":
        yield world._replace(remover="kept" if world.ready or world.ran else "removed")


def search(
    rule: Rule, *, first: int = ORIGINAL, removing: bool = False, tells: bool = True, errs: bool = False
) -> dict[World, list[World]]:
    """Return every world that can come to be, and what each can become."""
    found: dict[World, list[World]] = {}
    waiting = deque([World()])
    while waiting:
        world = waiting.popleft()
        if world in found:
            continue
        steps = [*worker_steps(world), *(remover_steps(world, tells=tells) if removing else ())]
        for index in range(len(world.timers)):
            steps += timer_steps(world, index, rule, first, errs=errs)
        found[world] = steps
        waiting.extend(steps)
    return found


def can_end(worlds: dict[World, list[World]]) -> set[World]:
    """Return the worlds from which an end can be reached."""
    before: dict[World, list[World]] = {}
    for world, steps in worlds.items():
        for after in steps:
            before.setdefault(after, []).append(world)
    ends = {world for world in worlds if world.is_over}
    waiting = list(ends)
    while waiting:
        new = [one for one in before.get(waiting.pop(), ()) if one not in ends]
        ends.update(new)
        waiting += new
    return ends


@pytest.mark.parametrize("first", [NO_BYTES, ORIGINAL])
def test_a_rule_of_refusals_loses_a_retry(first: int) -> None:
    """The search finds the loss that a timer makes when it takes a second refusal for a move."""
    worlds = search(by_refusals, first=first)
    assert any(world.is_lost for world in worlds)


@pytest.mark.parametrize("removing", [False, True])
def test_no_order_loses_or_doubles_a_retry(removing: bool) -> None:
    """In every order the job is somewhere, is run once at most, and can still come to its end."""
    worlds = search(carefully, removing=removing)
    assert len(worlds) > 100
    assert [world for world in worlds if world.is_lost] == []
    assert [world for world in worlds if world.ran and world.ready == MOVED] == []
    assert set(worlds) - can_end(worlds) == set()


def test_a_server_that_errs_loses_no_retry() -> None:
    """A refusal that names nothing although something is there ends no copy, and the job still comes to its end."""
    worlds = search(carefully, errs=True)
    assert [world for world in worlds if world.is_lost] == []
    assert set(worlds) - can_end(worlds) == set()


def test_what_was_taken_back_is_not_moved() -> None:
    """A timer that is between two moves of a job does not bring it back after a caller has taken it back."""
    worlds = search(carefully, removing=True)
    assert any(world.remover == "removed" for world in worlds)
    assert [world for world in worlds if world.remover == "removed" and world.ready] == []
    deaf = search(carefully, removing=True, tells=False)
    assert any(world.remover == "removed" and world.ready for world in deaf)
