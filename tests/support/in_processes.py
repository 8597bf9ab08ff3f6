"""Tasks that another process can import."""

from __future__ import annotations

import contextlib
import ctypes
import decimal
import gc
import io
import locale
import logging
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskcore import Reject, Retry, RetryLater, Router, Snooze, SoftTimeout, current
from taskcore.processes.frames import ProgressReport, encode_frame

router = Router()
tenant: ContextVar[str] = ContextVar("tenant", default="none")


@dataclass
class Point:
    """A typed value."""

    x: int
    y: int


class Declared(Exception):
    """An error that is part of the contract."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Declared) and self.args == other.args

    __hash__ = Exception.__hash__


class Stubborn(Exception):
    """An error that cannot be rebuilt from its args."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"number {number}")
        self.number = number


class Silent(Exception):
    """An error that cannot be printed."""

    def __str__(self) -> str:
        raise RuntimeError("no text today")


@router.task(runs_in="process")
def where(point: Point) -> tuple[int, Point]:
    """Tell the process's id and twice the point."""
    return os.getpid(), Point(point.x * 2, point.y * 2)


@router.task(runs_in="process")
def look() -> tuple[str, int, Mapping[str, str]]:
    """Tell what current() says."""
    context = current()
    return context.job_id, context.attempt, context.headers


@router.task(runs_in="process", raises=(Declared,))
def fail(kind: str) -> None:
    """Fail in many ways."""

    class Local(Exception):
        pass

    match kind:
        case "exit":
            sys.exit(3)
        case "die":
            os._exit(3)
        case "keyboard":
            raise KeyboardInterrupt
        case "local":
            raise Local("only here")
        case "lock":
            raise ValueError(threading.Lock())
        case "stubborn":
            raise Stubborn(number=7)
        case "silent":
            raise Silent
        case "declared":
            raise Declared(7)
        case _:
            raise ValueError("no")


@router.task(runs_in="process", retry=Retry(attempts=5, on=(ConnectionError,)))
def unlucky() -> None:
    """Fail with what the policy does not try again."""
    raise KeyError("x")


@router.task(runs_in="process", timeout=0.5)
def beat(path: str) -> None:
    """Write until killed."""
    while True:
        with Path(path).open("a") as file:
            file.write(".")
        time.sleep(0.005)


@router.task(runs_in="process")
def lie() -> int:
    """Return what was not promised."""
    text: Any = "not a number"
    return text


# ── what they print and log ──────────────────────────────────────────────────────────────────────


@router.task(runs_in="process")
def run_program(*, arguments: list[str]) -> int:
    """Start a program that inherits the standard streams."""
    return subprocess.run(arguments, check=True).returncode


@router.task(runs_in="process")
def speak() -> str:
    """Print in every way, and return what can be read from standard input."""
    print("by print")  # noqa: T201 - what is tested
    print("by stderr", file=sys.stderr)  # noqa: T201
    os.write(1, b"by write\n")
    ctypes.CDLL(None).puts(b"by C")
    ctypes.CDLL(None).fflush(None)
    subprocess.run([sys.executable, "-c", "print('by a program')"], check=True)
    return sys.stdin.read() + os.read(0, 10).decode()


@router.task(runs_in="process")
def print_bytes(pieces: list[bytes], times: int = 1) -> None:
    """Write these bytes to standard output, so many times."""
    for _ in range(times):
        for piece in pieces:
            os.write(1, piece)


@router.task(runs_in="process")
def write_log(name: str) -> None:
    """Log at several levels, with an error, and from a thread."""
    log = logging.getLogger(name)
    log.debug("not wanted")
    log.info("about %s", "this")
    try:
        int("no")
    except ValueError:
        log.exception("it failed")
    thread = threading.Thread(target=log.critical, args=["from a thread"])
    thread.start()
    thread.join()


# ── how they fail ────────────────────────────────────────────────────────────────────────────────


class Closed(Reject):
    """A rejection that is part of the contract."""


class Both(KeyError, ConnectionResetError):
    """An error of two families."""


@router.task(runs_in="process", raises=(Closed,), retry=Retry(attempts=3, base=0.0))
def say(what: str) -> str:
    """Say about itself what a function can say."""
    first = current().attempt == 1 and not current().trail.copies
    match what:
        case "reject":
            raise Reject("it is over")
        case "closed":
            raise Closed("on Sundays")
        case "later":
            if first:
                raise RetryLater(0.05, "the other side is asleep")
        case "snooze":
            if first:
                raise Snooze(0.05)
    return f"attempt {current().attempt}, {[error.message for error in current().trail.errors]}"


@router.task(runs_in="process", retry=Retry(attempts=2, base=0.0, on=(ConnectionError,)))
def two_families() -> None:
    """Raise what is worth a retry by its second base."""
    raise Both("x")


@router.task(runs_in="process", retry=Retry(attempts=2, base=0.0, give_up_on=(ConnectionError,)))
def gives_up() -> None:
    """Raise what is never worth a retry, by its second base."""
    raise Both("x")


@router.task(runs_in="process")
def end(how: str) -> None:
    """End the process."""
    if how == "fork":
        if os.fork():
            return
        sys.exit(3)
    os.kill(os.getpid(), getattr(signal, how))


@router.task(runs_in="process")
def corrupt(data: bytes) -> None:
    """Write to every socket of the process."""
    for descriptor in sockets():
        with socket.socket(fileno=os.dup(descriptor)) as other:
            other.sendall(data)
    time.sleep(5)


@router.task(runs_in="process")
def tell_nonsense(data: bytes) -> None:
    """Tell something, and then something that is no progress, as the protocol has it."""
    current().log("the beginning")
    corrupt.contract.function(encode_frame(ProgressReport(progress=data)))


def sockets() -> list[int]:
    """List the sockets of this process."""
    found = []
    for descriptor in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                found.append(descriptor)
        except OSError:
            continue
    return found


# ── what they start ──────────────────────────────────────────────────────────────────────────────


@router.task(runs_in="process")
def count_sockets() -> tuple[int, int, int]:
    """Count the sockets of this process, of a program that it starts, and of a copy of it."""
    code = (
        "import sys; sys.path[:] = eval(sys.argv[1]); from tests.support import in_processes; "
        "print(len(in_processes.sockets()))"
    )
    started = subprocess.run(
        [sys.executable, "-c", code, repr(sys.path)], stdout=subprocess.PIPE, check=True, close_fds=False
    )
    read, write = os.pipe()
    if not os.fork():
        logging.getLogger("copy").error("a copy logs")
        os.write(write, bytes([len(sockets())]))
        os._exit(0)
    return len(sockets()), int(started.stdout), os.read(read, 1)[0]


@router.task(runs_in="process", timeout=5.0)
def start_and_wait(path: str) -> None:
    """Start a program and wait for it; write both process ids to a file."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as program:
        Path(path).write_text(f"{os.getpid()} {program.pid}")


@router.task(runs_in="process", timeout=0.6)
def start_and_overrun(path: str) -> None:
    """Start a program and wait for it with too little time; write both process ids to a file."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as program:
        Path(path).write_text(f"{os.getpid()} {program.pid}")


@router.task(runs_in="process")
def change_process(folder: str) -> None:
    """Change what a function can change in its process, and leave a timer that would end it."""
    os.chdir(folder)
    os.umask(0o077)
    tenant.set("acme")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0.2)


@router.task(runs_in="process")
def describe_process() -> tuple[int, str, int, str, bool]:
    """Tell the process, its folder, its mask of new files, a context variable, and whether SIGUSR1 is ignored."""
    time.sleep(0.3)
    mask = os.umask(0)
    os.umask(mask)
    return os.getpid(), str(Path.cwd()), mask, tenant.get(), signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def is_running(pid: int) -> bool:
    """Tell whether a process exists and is more than an entry that its parent has not read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@router.task(runs_in="process", soft_timeout=2.0)
def sleep_softly(seconds: float, *, catch: bool) -> tuple[str, int]:
    """Sleep until a soft limit is over."""
    try:
        time.sleep(seconds)
    except SoftTimeout:
        if catch:
            return "partly", os.getpid()
        raise
    return "wholly", os.getpid()


@router.task(runs_in="process")
def burn(seconds: float) -> tuple[int, float, float]:
    """Compute for a while; return the process, and when it began and ended."""
    began = time.time()
    while time.time() < began + seconds:
        sum(range(10_000))
    return os.getpid(), began, time.time()


@router.task(runs_in="process")
def change_interpreter() -> None:
    """Change what a function can change of its interpreter, and of what programs share."""
    os.environ["TENANT"] = "acme"
    os.environ.pop("HOME", None)
    warnings.simplefilter("error")
    decimal.getcontext().prec = 3
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    gc.disable()
    sys.setrecursionlimit(5000)
    logging.disable(logging.CRITICAL)
    logging.basicConfig(level=logging.CRITICAL, handlers=[logging.NullHandler()], force=True)
    socket.setdefaulttimeout(0.5)
    sys.path.insert(0, "/nowhere")
    sys.excepthook = sys.unraisablehook = print
    sys.settrace(lambda *_: None)
    sys.setprofile(lambda *_: None)
    random.seed(1)
    sys.stdout = sys.stderr = io.StringIO()


@router.task(runs_in="process")
def draw() -> float:
    """Draw a random number; the next job does not find what this one seeds."""
    found = random.random()
    random.seed(1)
    return found


@router.task(runs_in="process")
def close_streams() -> None:
    """Close the standard streams, and their descriptors."""
    sys.stdout.close()
    sys.stderr.close()
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            os.close(descriptor)


@router.task(runs_in="process")
def describe_interpreter() -> dict[str, str]:
    """Tell all of this, and print a line."""
    print("printed", flush=True)  # noqa: T201 - it belongs to the log
    logging.getLogger("shop").error("logged")
    return {
        "process": str(os.getpid()),
        "environment": repr(sorted(os.environ.items())),
        "warnings": repr(warnings.filters),
        "decimal": str(decimal.Decimal(1) / 3),
        "locale": locale.setlocale(locale.LC_ALL),
        "collector": str(gc.isenabled()),
        "recursion": str(sys.getrecursionlimit()),
        "logging": f"{logging.root.level} {logging.root.handlers}",
        "sockets": str(socket.getdefaulttimeout()),
        "path": repr(sys.path),
        "hooks": repr((sys.excepthook, sys.unraisablehook, sys.gettrace(), sys.getprofile())),
    }
