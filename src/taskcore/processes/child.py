"""The program that runs jobs in a process of their own: read a request, call the function, send the answer.

It speaks with its worker over a socket that no other program gets. File descriptor 0 is the null device; 1 and 2 are a
pipe to the worker, which logs what it reads there. The process leads a session, so that everything it starts ends
with it, and it ends with its worker: when the socket ends while a job runs, it kills its whole process group.
"""

from __future__ import annotations

import atexit
import errno
import faulthandler
import importlib
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import SimpleQueue
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from taskcore.control import Reject, RetryLater, Snooze, time_of
from taskcore.envelope import decode_envelope, decode_trail, running
from taskcore.errors import InvalidContract, LeaseLost, UnencodableResult
from taskcore.lifecycle import deciding_error
from taskcore.processes.frames import (
    FrameError,
    JobAnswer,
    JobRaised,
    JobReturned,
    LogLine,
    PerformJob,
    RaisedKind,
    ReportBegun,
    StartProcess,
    encode_frame,
    reader_of_requests,
)
from taskcore.processes.progress_sender import ProgressSender
from taskcore.processes.restore import restored, run_in_own_context
from taskcore.worker.context import Context, HeldKey
from taskcore.worker.error_records import describe
from taskcore.worker.runners.values import FINISHED, finish_without_loop

if TYPE_CHECKING:
    from taskcore.task import Task

__all__ = ["main"]

LAST_SECONDS = 2.0  #: for an idle process to end by itself when its worker has closed the socket
LONGEST_TEXT = 65_536  #: characters of a log message, and of its traceback
READ_BYTES = 65_536
CLOSED_HERE = {errno.EBADF, errno.ENOTSOCK}  #: errors of a descriptor that this process closed, or used again
ANSWER_LOST = 74  #: exit code of a process that cannot answer: an error of input or output, as sysexits.h has it


def main(descriptor: int) -> None:
    """Serve the worker at the other end of this socket until it closes it."""
    worker = _WorkerConnection(socket.socket(fileno=descriptor))
    start = worker.requests.get()
    if not isinstance(start, StartProcess):
        return
    atexit.register(_kill_group_of, os.getpid())  # the first one registered runs last
    broken = _prepare(start, worker.send)
    while isinstance(job := worker.requests.get(), PerformJob):
        with restored():
            answer = _refuse(broken) if broken is not None else run_in_own_context(_perform, job, worker)
        if os.getpid() != worker.owner:
            os._exit(0 if isinstance(answer, JobReturned) else 1)  # the function forked, and this is its copy
        _flush()
        worker.sender.end()
        worker.answer(answer)
    if (children := sys.modules.get("taskcore.dependencies.children")) is not None:
        children.close_in_process()
    _flush()


class _WorkerConnection:
    """The socket to the worker; a thread reads it, because its end has to be seen while a job runs."""

    def __init__(self, connection: socket.socket) -> None:
        self.owner = os.getpid()
        self.requests: SimpleQueue[Any] = SimpleQueue()
        self.sender = ProgressSender(self._send)
        self._connection = connection
        connection.set_inheritable(False)
        self._lock = threading.RLock()
        self._busy = False
        os.register_at_fork(after_in_child=self._forked)
        threading.Thread(target=self._read, name="taskcore-requests", daemon=True).start()

    def answer(self, answer: JobAnswer) -> None:
        self._busy = False
        try:
            frame = encode_frame(answer)
        except FrameError as error:
            what = UnencodableResult(f"the result cannot leave its process: {error}", fix="return a reference to it")
            frame = encode_frame(_raised(what, None, "unencodable"))
        if not self._send(frame):
            print("the function has closed the connection to the worker, so its answer is lost", file=sys.stderr)  # noqa: T201
            _flush()
            os._exit(ANSWER_LOST)  # the thread that reads holds the socket, so that the worker sees no other end

    def send(self, line: LogLine) -> bool:
        """Tell whether the line was sent: a copy of this process that a function forked has no worker."""
        if os.getpid() != self.owner:
            return False
        self._send(encode_frame(line))
        return True

    def _send(self, frame: bytes) -> bool:
        try:
            with self._lock:
                self._connection.sendall(frame)
        except OSError:  # the worker is gone, and the reading thread sees to it; or the descriptor is
            return False
        return True

    def _read(self) -> None:
        reader = reader_of_requests()
        try:
            while data := self._connection.recv(READ_BYTES):
                for message in reader.feed(data):
                    if isinstance(message, ReportBegun):
                        self.sender.begun.put(message)
                        continue
                    self._busy = isinstance(message, PerformJob)
                    self.requests.put(message)
        except OSError as error:
            if self._busy and error.errno in CLOSED_HERE:
                return  # the function closed it: the answer will say so
        except FrameError:
            pass
        if not self._busy:
            self.requests.put(None)
            time.sleep(LAST_SECONDS)
        _kill_group_of(self.owner)
        os._exit(1)

    def _forked(self) -> None:
        """Close the connection in a copy of this process: what the copy says or reads must not reach the worker."""
        self._connection.close()


def _kill_group_of(owner: int) -> None:
    """Kill this process and everything that it started, but nothing if this is a copy or leads no group."""
    if os.getpid() == owner == os.getpgrp():
        os.killpg(owner, signal.SIGKILL)


# ── before the first job ──


def _prepare(start: StartProcess, send: Callable[[LogLine], bool]) -> BaseException | None:
    """Make this process like the worker; returns what the worker's main module raised here."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()
    # The worker decides what stops, and when; programs that a function starts get the default back.
    signal.signal(signal.SIGINT, lambda *_: None)
    _send_logging(start, send)
    sys.path[:], sys.argv[:] = start.path, start.argv
    try:
        _run_main(start)
    except BaseException as error:  # noqa: BLE001 - each job of this process has to say so
        return error
    return None


def _run_main(start: StartProcess) -> None:
    """Run the worker's main module under another name, as multiprocessing does, so that it starts no worker."""
    if start.main_name is not None:
        found = runpy.run_module(start.main_name, run_name="__mp_main__", alter_sys=True)
    elif start.main_file is not None and os.path.isfile(start.main_file):  # noqa: PTH113 - what the worker says
        found = runpy.run_path(start.main_file, run_name="__mp_main__")
    else:
        return
    module = ModuleType("__mp_main__")
    module.__dict__.update(found)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module


def _send_logging(start: StartProcess, send: Callable[[LogLine], bool]) -> None:
    for name, level in start.levels.items():
        logging.getLogger(name or None).setLevel(level)
    logging.disable(start.disabled)
    logging.getLogger().addHandler(_ToWorker(send))


class _ToWorker(logging.Handler):
    """Sends each record, formatted, to the worker's logging."""

    def __init__(self, send: Callable[[LogLine], bool]) -> None:
        super().__init__()
        self._send_line = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            trace = record.exc_text or ""
            if record.exc_info and record.exc_info[1] is not None:
                trace = "".join(traceback.format_exception(record.exc_info[1])).rstrip()
            if record.stack_info:
                trace = f"{trace}\n{record.stack_info}".lstrip()
            line = LogLine(
                _plain(record.name),
                int(record.levelno),
                _plain(record.getMessage()),
                _plain(trace),
                _plain(record.pathname),
                int(record.lineno or 0),
                _plain(record.funcName or ""),
            )
            if not self._send_line(line):
                print(f"{line.name}: {line.text}", line.trace, sep="\n" if line.trace else "", file=sys.stderr)  # noqa: T201
        except Exception:  # noqa: BLE001 - as every handler
            self.handleError(record)


def _plain(text: str) -> str:
    return str(text)[:LONGEST_TEXT].encode("utf-8", "backslashreplace").decode()


# ── one job ──


def _perform(job: PerformJob, worker: _WorkerConnection) -> JobAnswer:
    """Import, unpack, call, pack."""
    task: Task[..., Any] | None = None
    kind: RaisedKind | None = None
    holding: HeldKey | None = None
    try:
        task = _find(job.module, job.qualname)
        contract = task.contract
        function = contract.function
        if contract.injected:
            importlib.import_module("taskcore.dependencies.children").open_in_process()
        envelope = decode_envelope(job.envelope)
        holding = msgspec.json.decode(job.holding, type=HeldKey | None)
        trail = decode_trail(job.trail)
        running.set(
            Context(envelope, trail, job.queue, job.crashes, job.fence, _cannot_ask, task, holding, None, worker.sender)
        )
        if envelope.soft_timeout is not None:
            limited: Task[..., Any] = importlib.import_module("taskcore.soft_timeouts").limited_call(
                task, envelope.soft_timeout
            )
            function = limited.contract.function
        value = contract.invoke(function, contract.unpack(envelope.args, envelope.version))
        if type(value) not in FINISHED:
            value = finish_without_loop(value)
        kind = "unencodable"
        return JobReturned(contract.pack_result(value))
    except BaseException as error:  # noqa: BLE001 - whatever it is, the worker has to know
        return _raised(error, task, kind, keyed=holding is not None)


def _refuse(broken: BaseException) -> JobRaised:
    return _raised(broken, None, None)


async def _cannot_ask(_: str) -> bool:
    return False


def _find(module: str, qualname: str) -> Task[..., Any]:
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if not hasattr(found, "contract"):
        raise InvalidContract(
            f"{module}.{qualname} is not a task in the new process",
            fix='a task with runs_in="process" has to be a module-level function',
        )
    task: Task[..., Any] = found
    return task


def _raised(
    whole: BaseException, task: Task[..., Any] | None, kind: RaisedKind | None, *, keyed: bool = False
) -> JobRaised:
    """Describe the error as text, as its contract packs it, and as the rule table needs it: its class stays here."""
    error, retry = whole, None if task is None else task.standalone_options.rules.retry
    if kind is None and task is not None and retry is not None:
        error = deciding_error(whole, retry, raises=task.contract.raises, keyed=keyed)
    record = describe(error, when=0.0, worker="", attempt=0, whole=whole)
    if kind is None:
        kind = _kind_of(error)
    return JobRaised(
        kind,
        record.type,
        record.message,
        record.where,
        record.traceback,
        retryable=None if retry is None else retry.retries(error),
        declared=None if task is None else task.contract.pack_error(error),
        after=time_of(error) or 0.0,
        why=record.message,
    )


def _kind_of(error: BaseException) -> RaisedKind:
    says_when = time_of(error) is not None
    for cls, kind in KINDS.items():
        if issubclass(type(error), cls) and (says_when or cls not in (Snooze, RetryLater)):
            return kind
    return "error"


KINDS: Mapping[type[BaseException], RaisedKind] = {
    Snooze: "snooze",
    RetryLater: "retry_later",
    Reject: "reject",
    LeaseLost: "lease_lost",
}


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the function may have closed or replaced it
            stream.flush()
