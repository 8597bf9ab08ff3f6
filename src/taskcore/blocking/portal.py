"""A thread with an event loop of its own, for programs that have none.

The thread starts at the first blocking call and ends with the program. After a fork it is started anew.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel

from taskcore.errors import NotRunning

__all__ = ["Portal"]

T = TypeVar("T")


class Portal:
    """Runs coroutine functions from threads that have no event loop.

    :param app: kept open in the portal's loop.
    :param opened: where the app is open already, as a token of that event loop; None if it is not.
    """

    def __init__(self, app: AbstractAsyncContextManager[object], opened: Callable[[], Any]) -> None:
        self._app = app
        self._opened = opened
        self._lock = threading.Lock()
        self._pid = 0
        self._token: Any = None
        self.group: anyio.abc.TaskGroup | None = None

    def run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Run a coroutine function where the app is open, or else in the portal's own loop, and wait for it.

        :raises NotRunning: this thread has an event loop, which would be blocked (TC106).
        """
        _refuse_loop("await the call without .sync: await task.enqueue(…)")
        opened = self._opened()
        return anyio.from_thread.run(function, *args, token=self._start() if opened is None else opened)

    def enter_context(self, context: Callable[[], AbstractAsyncContextManager[object]]) -> Callable[[], None]:
        """Enter a context in the portal's own loop; returns the function that leaves it.

        :raises NotRunning: this thread has an event loop, which would be blocked (TC106).
        """
        _refuse_loop("use the form without .sync: async with app.running(): …")
        token = self._start()
        return anyio.from_thread.run(self._enter, context, token=token)

    async def _enter(self, context: Callable[[], AbstractAsyncContextManager[object]]) -> Callable[[], None]:
        leave, left = anyio.Event(), anyio.Event()

        async def inside(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            try:
                async with context():
                    task_status.started()
                    await leave.wait()
            finally:
                left.set()

        async def out() -> None:
            leave.set()
            await left.wait()

        if self.group is None:  # the portal's loop has just ended
            raise NotRunning("the loop of the blocking calls has ended", fix="call again")
        await self.group.start(inside)
        return lambda: anyio.from_thread.run(out, token=self._token)

    def _start(self) -> Any:
        with self._lock:
            if self._token is None or self._pid != os.getpid():
                self._pid = os.getpid()
                started: list[Any] = []
                ready = threading.Event()
                threading.Thread(target=self._serve, args=(started, ready), name="taskcore", daemon=True).start()
                ready.wait()
                if isinstance(started[0], BaseException):
                    raise started[0]
                self._token = started[0]
            return self._token

    def _serve(self, started: list[Any], ready: threading.Event) -> None:
        async def serve() -> None:
            async with self._app, anyio.create_task_group() as self.group:
                started.append(anyio.lowlevel.current_token())
                ready.set()
                await anyio.sleep_forever()

        try:
            anyio.run(serve)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            started.insert(0, error)
        finally:
            self._token = None
            ready.set()


def _refuse_loop(fix: str) -> None:
    if _has_loop():
        raise NotRunning("a blocking call (.sync) was made inside an event loop, which it would block", fix=fix)


def _has_loop() -> bool:
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:  # NoEventLoopError; or asyncio's own, in a thread that has a copy of a task's context
        return False
    return True
