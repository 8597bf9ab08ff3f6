"""Steps: asynchronous code, one step at a time, from synchronous code.

    with virtual_steps() as step:          trio, on a clock that jumps: a day passes in microseconds
        app = step(open_app)
        step(worker.take)
    with real_steps() as step:             asyncio, in a thread of its own, in real time

Between two steps nothing of ours runs under the virtual clock, so the same steps have the same outcome, always. All
steps run in one task, so what one step opens (a connection, a scope) another may close.
"""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import anyio
from anyio.from_thread import start_blocking_portal

__all__ = ["Steps", "real_steps", "virtual_steps"]

T = TypeVar("T")

MAX_IDLE_TURNS = 20_000  #: turns of a virtual loop in which no time passes, before a step counts as endless


class Steps(Protocol):
    """Call it with an async function and its arguments: the answer, or what it raised."""

    def __call__(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run one step to its end."""
        ...


class _Step:
    """One call and its answer."""

    def __init__(self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        self._function = function
        self._args = args
        self._error: BaseException | None = None
        self._value: Any = None
        self.ended = False

    async def run(self) -> None:
        """Run it; what it raises is kept for the caller, even what is no Exception."""
        try:
            self._value = await self._function(*self._args)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller
            self._error = error
        self.ended = True

    def answer(self) -> Any:
        """Return or raise what the caller gets."""
        if self._error is not None:
            raise self._error
        return self._value


@contextmanager
def virtual_steps() -> Iterator[Steps]:  # noqa: C901 - small functions around one loop
    """Run steps on trio's loop under a clock that jumps; the loop turns in this very thread, only while a step runs."""
    import trio
    import trio.lowlevel
    import trio.testing

    turns: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    waiting: list[_Step | None] = []
    arrived: list[trio.Event] = []
    ended: list[object] = []

    async def run_steps() -> None:
        token.append(trio.lowlevel.current_trio_token())
        while True:
            arrived[:] = [trio.Event()]
            if not waiting:
                await arrived[0].wait()
            step = waiting.pop()
            if step is None:
                return
            with trio.CancelScope() as scope[0]:
                await step.run()

    def turn(until: Callable[[], object]) -> None:
        idle, then = 0, clock.current_time()
        while not until() and not ended:
            turns.get()()
            now = clock.current_time()
            idle, then = (idle + 1, then) if now == then else (0, now)
            if idle == MAX_IDLE_TURNS:
                token[0].run_sync_soon(scope[0].cancel)
            elif idle == 2 * MAX_IDLE_TURNS:
                raise TimeoutError("this step never ends, and cannot be ended")

    def put(step: _Step | None) -> None:
        waiting.append(step)
        token[0].run_sync_soon(lambda: arrived[0].set())  # noqa: PLW0108 - a new event each time

    def call(function: Callable[..., Awaitable[T]], *args: Any) -> T:
        step = _Step(function, args)
        put(step)
        turn(lambda: step.ended)
        if scope[0].cancelled_caught or scope[0].cancel_called:
            raise TimeoutError("this step never ends: a task spins, or every task waits for ever")
        answer: T = step.answer()
        return answer

    clock = trio.testing.MockClock(autojump_threshold=0)
    scope = [trio.CancelScope()]
    token: list[trio.lowlevel.TrioToken] = []
    guest: dict[str, Any] = {"run_sync_soon_threadsafe": turns.put, "done_callback": ended.append, "clock": clock}
    trio.lowlevel.start_guest_run(run_steps, host_uses_signal_set_wakeup_fd=True, **guest)
    turn(lambda: token)
    try:
        yield call
    finally:
        put(None)
        turn(lambda: False)


@contextmanager
def real_steps() -> Iterator[Steps]:
    """Run steps on asyncio's loop in another thread; connections stay alive between two steps."""
    with start_blocking_portal("asyncio") as portal:
        send, receive = anyio.create_memory_object_stream[_Step](1)
        done: queue.SimpleQueue[None] = queue.SimpleQueue()

        async def run_steps() -> None:
            async with receive:
                async for step in receive:
                    await step.run()
                    done.put(None)

        def call(function: Callable[..., Awaitable[T]], *args: Any) -> T:
            step = _Step(function, args)
            portal.call(send.send_nowait, step)
            done.get()
            answer: T = step.answer()
            return answer

        playing = portal.start_task_soon(run_steps)
        try:
            yield call
        finally:
            portal.call(send.aclose)
            playing.result(10)
