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

from taskcore.backends.nats.delays import MOVE_TRIES, next_step
from taskcore.connections.nats import Reply

NO_BYTES, ORIGINAL, MOVED = 0, 1, 3  #: numbers of what may stand in the ready part; the copy is number 2

#: After an answer: another try that expects this number, the end of the copy, or nothing.
Step: TypeAlias = int | Literal["end", "leave"]
Rule: TypeAlias = Callable[[Reply, int], Step]


class Timer(NamedTuple):
    """What it writes next, the number that it expects, and how often it has tried."""

    next: Literal["", "move", "end"] = ""
    expected: int = NO_BYTES
    tries: int = 0


class State(NamedTuple):
    """The stream, and how far each of its writers is."""

    ready: int = ORIGINAL
    scheduled: bool = False
    moved: tuple[int, ...] = ()  #: the ids of moves that the server remembers, which are what they expected
    ran: bool = False  #: the moved job was run and ended
    worker: Literal["copy", "end", "done", "dead"] = "copy"
    timers: tuple[Timer, ...] = (Timer(), Timer())
    remover: Literal["", "deleted", "asked", "removed", "kept"] = ""

    @property
    def is_lost(self) -> bool:
        """The job is nowhere, was not run, and no caller takes it back."""
        somewhere = self.ready or self.scheduled or self.ran
        return not somewhere and self.remover in {"", "kept"}

    @property
    def is_over(self) -> bool:
        """Nothing of the job is left, and it was run or taken back."""
        return not self.ready and not self.scheduled and (self.ran or self.remover == "removed")


def carefully(answer: Reply, expected: int) -> Step:
    """Decide as the timers do."""
    return next_step(answer, expected=expected, copied=ORIGINAL)


def by_refusals(answer: Reply, expected: int) -> Step:
    """Take the second refusal, whatever the server found, for a sign that another timer has moved the job."""
    return "end" if b"error" not in answer.body or expected else ORIGINAL


def refused(found: int) -> Reply:
    """Return a refusal as servers write it."""
    text = b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: %d"},"stream":"s","seq":0}'
    return Reply(text % found, b"")


def moves(state: State, timer: Timer, *, errs: bool) -> Iterator[tuple[State, Reply]]:
    """Yield what the server makes of a move; one that errs may also fail to read what is there, and refuse for that."""
    if timer.expected in state.moved:
        yield state, Reply(b'{"stream":"s","seq":3,"duplicate": true}', b"")
    elif state.ready == timer.expected:
        yield state._replace(ready=MOVED, moved=(*state.moved, timer.expected)), Reply(b'{"stream":"s","seq":3}', b"")
    else:
        yield state, refused(state.ready)
    if errs:
        yield state, refused(NO_BYTES)


def timer_steps(state: State, index: int, rule: Rule, first: int, *, errs: bool) -> Iterator[State]:
    """Yield the states after this timer gets the copy, writes, or dies."""

    def with_timer(state: State, timer: Timer) -> State:
        return state._replace(timers=(*state.timers[:index], timer, *state.timers[index + 1 :]))

    timer = state.timers[index]
    if state.scheduled:
        yield with_timer(state, Timer("move", first))
    if timer.next:
        yield with_timer(state, Timer())
    if timer.next == "end":
        yield with_timer(state._replace(scheduled=False), Timer())
    elif timer.next == "move":
        for after, answer in moves(state, timer, errs=errs):
            step = rule(answer, timer.expected)
            if step == "end":
                yield with_timer(after, Timer("end"))
            elif isinstance(step, int) and timer.tries + 1 < MOVE_TRIES:
                yield with_timer(after, Timer("move", step, timer.tries + 1))
            else:
                yield with_timer(after, Timer())


def worker_steps(state: State) -> Iterator[State]:
    """Yield the states after the worker writes or dies, its heir ends a job with a copy, or the moved job runs."""
    held = state.ready == ORIGINAL
    if state.worker in {"copy", "end"}:
        yield state._replace(worker="dead")
    if state.worker == "copy" and held:
        yield state._replace(worker="end", scheduled=True)
    elif state.worker == "end":
        yield state._replace(worker="done", ready=NO_BYTES if held else state.ready)
    elif state.worker == "dead" and held:
        yield state._replace(worker="end" if state.scheduled else "copy")
    if state.ready == MOVED:
        yield state._replace(ready=NO_BYTES, ran=True)


def remover_steps(state: State, *, notifies: bool) -> Iterator[State]:
    """Yield the states after a caller takes back the copy, its job first; then it notifies the timers, and looks."""
    if state.remover == "" and state.scheduled and not state.ran:
        ready = NO_BYTES if state.ready == ORIGINAL else state.ready
        yield state._replace(remover="deleted", ready=ready, scheduled=False)
    elif state.remover == "deleted":
        quiet = tuple(Timer() if timer.next == "move" and notifies else timer for timer in state.timers)
        yield state._replace(remover="asked", timers=quiet)
    elif state.remover == "asked":
        yield state._replace(remover="kept" if state.ready or state.ran else "removed")


def search(
    rule: Rule, *, first: int = ORIGINAL, removing: bool = False, notifies: bool = True, errs: bool = False
) -> dict[State, list[State]]:
    """Return every state that can come to be, and what each can become."""
    found: dict[State, list[State]] = {}
    waiting = deque([State()])
    while waiting:
        state = waiting.popleft()
        if state in found:
            continue
        steps = [*worker_steps(state), *(remover_steps(state, notifies=notifies) if removing else ())]
        for index in range(len(state.timers)):
            steps += timer_steps(state, index, rule, first, errs=errs)
        found[state] = steps
        waiting.extend(steps)
    return found


def can_end(states: dict[State, list[State]]) -> set[State]:
    """Return the states from which an end can be reached."""
    before: dict[State, list[State]] = {}
    for state, steps in states.items():
        for after in steps:
            before.setdefault(after, []).append(state)
    ends = {state for state in states if state.is_over}
    waiting = list(ends)
    while waiting:
        new = [one for one in before.get(waiting.pop(), ()) if one not in ends]
        ends.update(new)
        waiting += new
    return ends


@pytest.mark.parametrize("first", [NO_BYTES, ORIGINAL])
def test_a_rule_of_refusals_loses_a_retry(first: int) -> None:
    """The search finds the loss that a timer makes when it takes a second refusal for a move."""
    states = search(by_refusals, first=first)
    assert any(state.is_lost for state in states)


@pytest.mark.parametrize("removing", [False, True])
def test_no_order_loses_or_doubles_a_retry(removing: bool) -> None:
    """In every order the job is somewhere, is run once at most, and can still come to its end."""
    states = search(carefully, removing=removing)
    assert len(states) > 100
    assert [state for state in states if state.is_lost] == []
    assert [state for state in states if state.ran and state.ready == MOVED] == []
    assert set(states) - can_end(states) == set()


def test_a_server_that_errs_loses_no_retry() -> None:
    """A refusal that names nothing although something is there ends no copy, and the job still comes to its end."""
    states = search(carefully, errs=True)
    assert [state for state in states if state.is_lost] == []
    assert set(states) - can_end(states) == set()


def test_a_removed_job_is_not_moved() -> None:
    """A timer that is between two moves of a job does not bring it back after a caller has taken it back."""
    states = search(carefully, removing=True)
    assert any(state.remover == "removed" for state in states)
    assert [state for state in states if state.remover == "removed" and state.ready] == []
    unnotified = search(carefully, removing=True, notifies=False)
    assert any(state.remover == "removed" and state.ready for state in unnotified)
