"""A process that runs jobs, seen from its worker: start, ask, listen, end.

A thread reads the protocol and the output: neither a slow log handler nor a process that prints without end holds up
the event loop. Memory is bounded, because what is not read yet waits in the pipe. What a process says can end that
process and its job, and nothing else.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from weakref import WeakSet

import anyio
import anyio.from_thread
import anyio.lowlevel

from taskcore.processes.frames import (
    BeginReport,
    FrameError,
    JobAnswer,
    LogLine,
    ProgressReport,
    ReportBegun,
    encode_frame,
    reader_of_answers,
)
from taskcore.processes.output import LineSplitter

__all__ = ["ChildProcess", "ProcessError", "Take", "how"]

OUTPUT = "taskcore.process"  #: the logger of what processes print

READ_BYTES = 65_536
READS_IN_A_ROW = 16  #: portions of output that are read in a row, before the protocol has its turn
LOOK_AFTER = 1.0  #: seconds between two looks whether a process has ended, where the system cannot tell
TIME_TO_END = 1.0  #: seconds for a process to end after it has closed its socket
TIME_TO_CLOSE = 3.0  #: seconds for an idle process to end by itself when its worker stops
PROGRAM = "import sys; sys.path.append(sys.argv[2]); from taskcore.processes.child import main; main(int(sys.argv[1]))"
ROOT = str(Path(__file__).parents[2])  #: where this library is imported from


class ProcessError(Exception):
    """The process of a job ended or broke the protocol; counts as a failed attempt."""


#: Those whose socket is open here.
_OPEN: WeakSet[ChildProcess] = WeakSet()


#: Takes what a function tells before its end; ``reply`` sends a message to its process.
Take: TypeAlias = "Callable[[BeginReport | ProgressReport, Callable[[ReportBegun], Awaitable[None]]], None]"


class _Waiting:
    """A job that waits for the answer of its process."""

    def __init__(self, take: Take) -> None:
        self.take = take
        self.token = anyio.lowlevel.current_token()
        self.ended = anyio.Event()
        self.answer: JobAnswer | None = None
        self.error: Exception | None = None

    def call(self, function: Callable[[], None]) -> None:
        """Call a function in the loop of the job, from another thread, and raise its error; do nothing without a loop.

        Only the error of a loop that has ended is dropped, because its job is gone. asyncio has another one, for a loop
        that ends at this very moment.
        """
        errors: list[Exception] = []

        def called() -> None:
            try:
                function()
            except Exception as error:  # noqa: BLE001 - it belongs to the thread, which raises it
                errors.append(error)

        with suppress(RuntimeError):
            anyio.from_thread.run_sync(called, token=self.token)
        if errors:
            raise errors[0]


class ChildProcess(threading.Thread):
    """One process, and the thread that listens to it."""

    def __init__(self, start: bytes) -> None:
        super().__init__(name="taskcore-process", daemon=True)
        self.alive = True
        self._lock = threading.Lock()
        self._waiting: _Waiting | None = None
        self._label: Mapping[str, Any] = {"job_id": "?", "task": "?"}
        self._lines = LineSplitter()
        self._answers = reader_of_answers()
        self._connection, theirs = socket.socketpair()
        self._output, output = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with a program of our own
                [sys.executable, "-P", "-c", PROGRAM, str(theirs.fileno()), ROOT],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except BaseException:
            self._connection.close()
            os.close(self._output)
            raise
        finally:
            theirs.close()
            os.close(output)
        with suppress(OSError):  # it has died already, and the thread will say so
            self._connection.sendall(start)
        self._connection.setblocking(False)  # noqa: FBT003 - as the next line
        os.set_blocking(self._output, False)
        self.start()
        _OPEN.add(self)

    # ── in the event loop ──

    async def perform(self, request: bytes, label: Mapping[str, Any], take: Take) -> JobAnswer:
        """Ask, and wait for the answer. On cancellation the process is killed.

        :param label: which job it is, for what the process prints and logs.
        :param take: is called, in the event loop, with what the function tells.
        :raises ProcessError: there is no answer.
        """
        waiting = _Waiting(take)
        with self._lock:
            if not self.alive:
                raise ProcessError("the process of this job ended before it was asked")
            self._waiting, self._label = waiting, label
        try:
            await self._send(request)
            await waiting.ended.wait()
        except BaseException:
            self.kill()
            raise
        if waiting.error is not None:
            raise waiting.error
        assert waiting.answer is not None  # noqa: S101 - one of the two is there when it has ended
        return waiting.answer

    async def _reply(self, message: ReportBegun) -> None:
        await self._send(encode_frame(message))

    async def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._connection.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._connection)
            except OSError:  # the process has died, and the thread says of what
                return

    def kill(self) -> None:
        """Kill the process and all that it started."""
        with self._lock:
            if self.alive:  # if not, the thread is about to do it, or has done it and the id may be another group's
                self.alive = False
                self._kill_group()

    def close_in_copy(self) -> None:
        """Close the descriptors in a process that only has them because it is a copy of the worker."""
        self._connection.close()
        os.close(self._output)

    # ── in a thread ──

    def end(self) -> None:
        """Let an idle process end by itself, or kill it; returns when it is gone and its output is read."""
        if self._waiting is None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)
            self.join(TIME_TO_CLOSE)
        self.kill()
        self.join(TIME_TO_CLOSE)

    def run(self) -> None:
        """Listen until the process has ended, and say how."""
        problem = None
        try:
            self._listen()
        except FrameError as error:
            problem = f"the process of this job broke the protocol, so it was killed: {error}"
        except Exception:  # noqa: BLE001 - whatever it is, the process has to end and its job has to learn it
            problem = f"listening to the process of this job failed: {traceback.format_exc()}"
        self._conclude(problem)

    def _listen(self) -> None:
        """Read until the process ends."""
        with selectors.DefaultSelector() as selector, _end_of(self._process.pid) as end:
            selector.register(self._output, selectors.EVENT_READ)
            selector.register(self._connection, selectors.EVENT_READ)
            if end is not None:
                selector.register(end, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(LOOK_AFTER if end is None else None)}
                if self._output in ready and not self._read_output():
                    selector.unregister(self._output)
                if self._connection.fileno() in ready:
                    if not self._read_protocol():
                        return
                elif end in ready or (not ready and self._process.poll() is not None):
                    return  # a copy of it, made by a function that forks, still has the socket

    def _read_protocol(self) -> bool:
        """Read what the process has sent, and return False at the end of the stream."""
        try:
            data = self._connection.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        for message in self._answers.feed(data):
            if isinstance(message, LogLine):
                self._log_record(message)
            elif isinstance(message, BeginReport | ProgressReport):
                self._hand_over(message)
            else:
                self._read_output()  # all that was printed before the answer belongs to this job
                self._log_lines(self._lines.flush())
                self._report(message, None)
        return bool(data)

    def _read_output(self) -> bool:
        """Read what the process has printed, but not without end, and return False at the end."""
        for _ in range(READS_IN_A_ROW):
            try:
                data = os.read(self._output, READ_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._log_lines(self._lines.feed(data))
        return True

    def _conclude(self, problem: str | None) -> None:
        """End the process, if it has not ended, and report how it ended."""
        with self._lock:
            self.alive = False
        if problem is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(TIME_TO_END)
        closed = self._process.returncode is None
        self._kill_group()
        self._process.wait()
        ended = "closed its connection to the worker, so it was killed" if closed else how(self._process.returncode)
        with suppress(Exception):
            self._read_output()
            self._log_lines(self._lines.flush())
        _OPEN.discard(self)
        self._connection.close()
        os.close(self._output)
        self._report(None, ProcessError(problem or f"the process of this job (pid {self._process.pid}) {ended}"))

    def _kill_group(self) -> None:
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _report(self, answer: JobAnswer | None, error: Exception | None) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is None:
            if answer is not None:
                raise FrameError("it answered a job that it was not given")
            return
        waiting.answer, waiting.error = answer, error
        waiting.call(waiting.ended.set)

    def _hand_over(self, message: BeginReport | ProgressReport) -> None:
        """Give what a function tells to its job; after the end of that it is dropped."""
        waiting = self._waiting
        if waiting is not None:
            waiting.call(partial(waiting.take, message, self._reply))

    def _log_lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            job = f"job {self._label['job_id']} of {self._label['task']}"
            self._log_record(LogLine(OUTPUT, logging.WARNING, f"{job}: {line}"))

    def _log_record(self, line: LogLine) -> None:
        """Hand a record to the worker's logging, as if it had been made here."""
        try:
            target = logging.getLogger(line.name)
            if target.isEnabledFor(line.level):
                record = target.makeRecord(
                    line.name, line.level, line.path, line.line, line.text, (), None, line.function, self._label
                )
                record.exc_text = line.trace or None
                record.process, record.processName, record.threadName = self._process.pid, self.name, None
                target.handle(record)
        except Exception:  # noqa: BLE001 - a broken handler is the user's, and must not end the process
            with suppress(Exception):
                traceback.print_exc(file=sys.stderr)


def _close_in_copy() -> None:
    """Close the descriptors in a forked copy of the worker: else the copy would keep the processes alive."""
    for process in list(_OPEN):
        with suppress(OSError):
            process.close_in_copy()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_copy)


@contextmanager
def _end_of(pid: int) -> Iterator[int | None]:
    """Open a descriptor that becomes readable when a process ends; None where the system has no such thing."""
    descriptor = None
    if hasattr(os, "pidfd_open"):
        with suppress(OSError):
            descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def how(code: int) -> str:
    """Describe how a process ended: ``killed by SIGSEGV (signal 11)``, ``exited with code 3``."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name} (signal {-code})"
    except ValueError:
        return f"was killed by signal {-code}"
