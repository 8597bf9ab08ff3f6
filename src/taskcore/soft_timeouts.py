"""Soft time limits: ``SoftTimeout`` is raised inside of a function that takes too long, and it may still return.

A task with ``soft_timeout=`` has a limited form of its function in its contract; all other tasks know nothing of it.
A call with a limit of its own is run as a copy of its task.

    async function      its await is cancelled, and the cancellation reaches it as ``SoftTimeout``
    in a thread         the interpreter raises it when the thread executes Python code next
    in a process        a signal raises it there
"""

from __future__ import annotations

import asyncio
import copy
import ctypes
import inspect
import math
import signal
import threading
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from taskcore.envelope import running
from taskcore.errors import InvalidContract, InvalidSetting
from taskcore.options import DEFAULT
from taskcore.toolkit.units import seconds_of

if TYPE_CHECKING:
    from taskcore.task import Task

__all__ = ["SoftTimeout", "limited", "limited_call", "limited_task", "refuse_unlimited"]

Function = Callable[..., Any]

#: What the call that begins has instead of its task's limit; the limited form takes it.
of_call: ContextVar[float | None] = ContextVar("taskcore.soft_timeout", default=None)


class SoftTimeout(asyncio.CancelledError):
    """The soft time limit of this job is over: clean up, and return or raise.

    It is a cancellation, so that task groups and timeouts inside of the function behave, and ``except Exception`` lets
    it pass. A function that does not catch it fails with a ``TimeoutError``.
    """


def limited_task(function: Function, options: Mapping[str, Any]) -> Function:
    """Make the limited form of a function by the options of its task.

    :raises InvalidContract: the limit cannot be, or cannot be kept where the function runs (TC303).
    """
    problems = []
    seconds = math.inf
    try:
        seconds = seconds_of("soft_timeout", options["soft_timeout"])
        hard = options.get("timeout", DEFAULT)
        if not seconds or (hard is not None and hard is not DEFAULT and seconds_of("timeout", hard) <= seconds):
            problems.append("soft_timeout: expected a time above 0 and below timeout")
    except InvalidSetting as error:
        problems.append(f"soft_timeout: {error.what}")
    if not inspect.iscoroutinefunction(function) and options.get("runs_in") == "loop":
        problems.append('soft_timeout: a plain function in the loop cannot be interrupted; use runs_in="thread"')
    if problems:
        raise InvalidContract(
            f"{getattr(function, '__name__', function)}(): these options do not fit",
            facts=problems,
            fix='for example @app.task(soft_timeout="50s", timeout="60s")',
        )
    return limited(function, seconds) if inspect.isfunction(function) else function


def limited_call(task: Task[..., Any], seconds: float) -> Task[..., Any]:
    """Make the form of a task that one call with a limit of its own runs as."""
    function: Function | None = task.contract.function
    while function is not None and not getattr(function, "has_soft_timeout", False):
        function = getattr(function, "__wrapped__", None)
    inner = task.contract.function
    form = copy.copy(task)
    form.contract = msgspec.structs.replace(
        task.contract, function=limited(inner, seconds) if function is None else _with_limit(inner, seconds)
    )
    return form


def _with_limit(function: Function, seconds: float) -> Function:
    """Call the limited form of a function with another limit."""

    @wraps(function)
    def with_limit(*args: Any, **kwargs: Any) -> Any:
        of_call.set(seconds)
        return function(*args, **kwargs)

    return with_limit


def refuse_unlimited(name: str, is_async: bool, runs_in: str | None) -> None:
    """Refuse a call with a limit that cannot be kept where its function runs.

    :raises InvalidSetting: it is a plain function in the event loop (TC104).
    """
    if not is_async and runs_in == "loop":
        raise InvalidSetting(
            f"{name}: soft_timeout cannot be kept, because a plain function in the loop cannot be interrupted",
            fix='declare the task with runs_in="thread"',
        )


def limited(function: Function, seconds: float) -> Function:
    """Make the limited form of a task's function. A direct call outside of a job has no limit."""
    form = _limited(function, seconds)
    form.has_soft_timeout = True  # type: ignore[attr-defined]
    return form


def _limited(function: Function, seconds: float) -> Function:
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def softly(*args: Any, **kwargs: Any) -> Any:
            work = function(*args, **kwargs)
            return await (work if running.get(None) is None else _in_loop(work, _chosen(seconds)))

        return softly

    @wraps(function)
    def softly_plain(*args: Any, **kwargs: Any) -> Any:
        if running.get(None) is None or _is_in_a_loop():
            return function(*args, **kwargs)
        in_process = threading.current_thread() is threading.main_thread()
        limit = (_Signal if in_process else _ThreadLimit)(chosen := _chosen(seconds))
        return _within(limit, lambda: function(*args, **kwargs), chosen)

    return softly_plain


def _chosen(seconds: float) -> float:
    """Take the limit of the call that begins, if it has one, so that calls inside of it have their task's."""
    own = of_call.get()
    if own is None:
        return seconds
    of_call.set(None)
    return own


def _is_in_a_loop() -> bool:
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


def _too_long(seconds: float) -> TimeoutError:
    return TimeoutError(f"took longer than its soft timeout of {seconds:g} s")


# ── in the event loop ──


async def _in_loop(work: Coroutine[Any, Any, Any], seconds: float) -> Any:
    try:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
    except RuntimeError:
        task, loop = None, None
    if task is None or loop is None:
        work.close()
        raise InvalidContract(
            "soft_timeout= of an async function needs asyncio, and this worker runs on trio",
            fix="run the worker with --loop asyncio, or use anyio.move_on_after in the function",
        )
    driven = _Driven(work, task)
    timer = loop.call_later(seconds, driven.expire)
    try:
        return await driven
    except SoftTimeout as error:
        raise _too_long(seconds) from error
    finally:
        timer.cancel()
        driven.forget()


class _Driven:
    """Runs a coroutine as ``await`` does, but the cancellation at the limit reaches it as ``SoftTimeout``."""

    def __init__(self, work: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> None:
        self._work = work
        self._task = task
        self._is_expiring = False

    def expire(self) -> None:
        """Cancel what the coroutine waits for."""
        self._is_expiring = True
        self._task.cancel()

    def forget(self) -> None:
        """Take a cancellation back that never reached the coroutine."""
        if self._is_expiring:
            self._is_expiring = False
            self._task.uncancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[Any], Any] = self._work.send
        given: Any = None
        while True:
            try:
                waited = step(given)
            except StopIteration as end:
                return end.value
            try:
                step, given = self._work.send, (yield waited)
            except asyncio.CancelledError as error:
                step, given = self._work.throw, self._as_it_is_meant(error)
            except BaseException as error:  # noqa: BLE001 - it belongs to the coroutine
                step, given = self._work.throw, error

    def _as_it_is_meant(self, error: asyncio.CancelledError) -> BaseException:
        if not self._is_expiring:
            return error
        self.forget()
        return SoftTimeout()


# ── in a thread, in a process ──


def _within(limit: _Signal | _ThreadLimit, call: Callable[[], Any], seconds: float) -> Any:
    """Call under a limit. The limit may be over in any line of this, also between the return and the end of it."""
    values = []
    try:
        limit.begin()
        values.append(call())
        limit.end()
    except SoftTimeout as error:
        limit.end()
        if not values:
            raise _too_long(seconds) from error
    except BaseException:
        limit.end()
        raise
    return values[0]


class _ThreadLimit:
    """A limit of the thread that makes it."""

    def __init__(self, seconds: float) -> None:
        self._thread = ctypes.c_ulong(threading.get_ident())
        self._lock = threading.Lock()
        self._is_over = self._was_sent = False
        self._timer = threading.Timer(seconds, self._raise)
        self._timer.daemon = True

    def begin(self) -> None:
        self._timer.start()

    def end(self) -> None:
        """Let nothing be raised any more, also what was not raised yet."""
        try:
            self._end()
        except SoftTimeout:  # it came in between, and no second one is sent
            self._end()

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
        self._timer.cancel()
        if self._was_sent:
            self._take_what_was_sent()

    def _take_what_was_sent(self) -> None:
        """Replace an exception that may be on its way by one that is raised here.

        An interpreter notes that there is an exception, and forgets that only when one is raised. To withdraw the
        exception would leave the note: each call and each loop would be slow, and traced code would hang (Python 3.11).
        """
        with suppress(SoftTimeout):
            ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, ctypes.py_object(SoftTimeout))
            while True:
                pass
        self._was_sent = False

    def _raise(self) -> None:
        with self._lock:
            if not self._is_over:
                self._was_sent = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self._thread, ctypes.py_object(SoftTimeout))


class _Signal:
    """A limit of a process, in its main thread."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._before: Any = None

    def begin(self) -> None:
        self._before = signal.signal(signal.SIGALRM, self._raise)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def end(self) -> None:
        """Let nothing be raised any more."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._before is not None:
            signal.signal(signal.SIGALRM, self._before)

    def _raise(self, *_: object) -> None:
        raise SoftTimeout
