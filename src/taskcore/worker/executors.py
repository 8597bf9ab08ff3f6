"""Where a function runs: in the event loop, in a thread, or in a process of its own."""

from __future__ import annotations

import copy
import importlib
import math
import signal
import sys
from collections.abc import Mapping
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_process
import msgspec

from taskcore.envelope import decode_envelope, decode_trail
from taskcore.errors import InvalidContract
from taskcore.options import RunsIn
from taskcore.worker.context import Context, HeldKey, running
from taskcore.worker.error_records import message_of, place_of, trace_of
from taskcore.worker.threads import Threads

if TYPE_CHECKING:
    from taskcore.task import Task
    from taskcore.worker.execution import Execution

__all__ = ["Executors", "ProcessError", "RemoteError"]


class ProcessError(Exception):
    """An error that a function raised in its own process and that cannot be rebuilt here; the text names its type."""


class RemoteError(Exception):
    """What a function raised in its own process, and where: tracebacks do not travel."""

    def __init__(self, error: BaseException, place: str, trace: str) -> None:
        super().__init__(error, place, trace)
        self.error = error
        self.place = place
        self.trace = trace


class Executors:
    """Runs plain functions outside of the event loop, a bounded number at a time."""

    def __init__(self, *, threads: int, processes: int) -> None:
        #: What a job has to enter before it starts, so that waiting for a thread does not count as running.
        self.rooms: Mapping[RunsIn, anyio.CapacityLimiter] = {
            "thread": anyio.CapacityLimiter(threads),
            "process": anyio.CapacityLimiter(processes),
        }
        self._threads = Threads()
        self._no_limit = anyio.CapacityLimiter(math.inf)

    def close(self) -> None:
        """No more jobs will come; threads that still run are not waited for."""
        self._threads.close()

    async def in_thread(self, task: Task[..., Any], arguments: Any) -> Any:
        """Run in a thread. A thread cannot be killed: on cancellation it is left alone, its result thrown away."""
        contract = task.contract
        return await self._threads.run(contract.invoke, contract.function, arguments)

    async def in_process(self, task: Task[..., Any], job: Execution, fence: int, holding: HeldKey | None) -> bytes:
        """Run in a process, which is killed on cancellation; returns the encoded result.

        What crosses over is the module's name and bytes, between this program and itself: the function's module is
        imported there, as a worker would.

        :raises RemoteError: the function raised; it holds the error and its place.
        """
        function, delivery = task.contract.function, job.delivery
        told = (delivery.envelope, delivery.trail, delivery.queue, job.crashes, fence, msgspec.json.encode(holding))
        result: bytes | RemoteError = await anyio.to_process.run_sync(
            _perform, function.__module__, function.__qualname__, told, cancellable=True, limiter=self._no_limit
        )
        if isinstance(result, RemoteError):
            raise result
        return result


def _perform(module: str, qualname: str, told: tuple[bytes, bytes, str, int, int, bytes]) -> bytes | RemoteError:
    """In the child: import, unpack, call, pack."""
    # Ctrl-C in a terminal reaches every process of it; who stops, and when, is for the worker to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task = _find(module, qualname)
    contract = task.contract
    envelope, trail, queue, crashes, fence, held = decode_envelope(told[0]), decode_trail(told[1]), *told[2:]
    holding = msgspec.json.decode(held, type=HeldKey | None)
    running.set(Context(envelope, trail, queue, crashes, fence, _cannot_ask, task, holding))
    arguments = contract.unpack(envelope.args, envelope.version)
    try:
        value = contract.invoke(contract.function, arguments)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it has to travel
        return RemoteError(_that_can_travel(error), place_of(error), trace_of(error))
    return contract.pack_result(value)


def _that_can_travel(error: BaseException) -> BaseException:
    """The error, if it can be rebuilt from its parts in the other process, else its type and text."""
    try:
        ForkingPickler.dumps(copy.copy(error))  # as it will travel, between this program and itself
    except Exception:  # noqa: BLE001 - this runs the error's own code
        return ProcessError(f"{type(error).__qualname__}: {message_of(error)}")
    return error


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
