"""Where a function runs: in the event loop, in a thread, or in a process of its own."""

from __future__ import annotations

import copy
import importlib
import math
import sys
import traceback
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_process
import anyio.to_thread

from taskcore.errors import TaskcoreError
from taskcore.options import RunsIn

if TYPE_CHECKING:
    from taskcore.task import Task

__all__ = ["Executors", "ProcessError"]


class ProcessError(Exception):
    """An error that a function raised in its own process and that cannot be rebuilt here; the text names its type."""


class Executors:
    """Runs plain functions outside of the event loop, a bounded number at a time."""

    def __init__(self, *, threads: int, processes: int) -> None:
        self._rooms = {"thread": anyio.CapacityLimiter(threads), "process": anyio.CapacityLimiter(processes)}
        self._no_limit = anyio.CapacityLimiter(math.inf)

    def room(self, runs_in: RunsIn) -> anyio.CapacityLimiter | None:
        """What a job has to enter before it starts, so that waiting for a thread does not count as running."""
        return self._rooms.get(runs_in)

    async def in_thread(self, task: Task[..., Any], arguments: Any) -> Any:
        """Run in a thread. A thread cannot be killed: on cancellation it is left alone, its result thrown away."""
        contract = task.contract
        return await anyio.to_thread.run_sync(
            contract.spread, contract.function, arguments, abandon_on_cancel=True, limiter=self._no_limit
        )

    async def in_process(self, task: Task[..., Any], payload: bytes, version: int) -> bytes:
        """Run in a process, which is killed on cancellation; returns the encoded result.

        What crosses over is the module's name and bytes, between this program and itself: the function's module is
        imported there, as a worker would.
        """
        function = task.contract.function
        status, data = await anyio.to_process.run_sync(
            _perform,
            function.__module__,
            function.__qualname__,
            payload,
            version,
            cancellable=True,
            limiter=self._no_limit,
        )
        if status == "returned":
            return data
        error = task.contract.unpack_error(data) if status == "declared" else None
        raise error if error is not None else ProcessError(data.decode())


def _perform(module: str, qualname: str, payload: bytes, version: int) -> tuple[str, bytes]:
    """In the child: import, unpack, call, pack."""
    task = _find(module, qualname)
    contract = task.contract
    arguments = contract.unpack(payload, version)
    try:
        value = contract.spread(contract.function, arguments)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to travel
        declared = contract.pack_error(error)
        if declared is not None:
            return "declared", declared
        raise _that_can_travel(error) from None
    return "returned", contract.pack_result(value)


def _that_can_travel(error: Exception) -> Exception:
    """The error, if it can be rebuilt from its parts in the other process, else its text; its traceback as a note."""
    try:
        travelling = copy.copy(error)
        travelling.with_traceback(None)
    except Exception:  # noqa: BLE001 - copying runs the error's own code
        travelling = ProcessError(f"{type(error).__qualname__}: {error}")
    travelling.add_note("".join(traceback.format_exception(error)))
    return travelling


def _find(module: str, qualname: str) -> Task[..., Any]:
    found: Any = sys.modules.get(module) or importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name, None)
    if not hasattr(found, "contract"):
        raise TaskcoreError(
            f"{module}.{qualname} is not a task in the new process",
            fix='a task with runs_in="process" has to be a module-level function',
        )
    task: Task[..., Any] = found
    return task
