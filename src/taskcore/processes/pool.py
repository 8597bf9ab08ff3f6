"""Processes that run jobs: started when a job needs one, used again, ended with the worker."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

import anyio

from taskcore.processes.frames import JobAnswer, PerformJob, StartProcess, encode_frame
from taskcore.processes.process import ChildProcess, Take
from taskcore.worker.runners.threads import DaemonThreadPool

__all__ = ["ProcessPool"]


class ProcessPool:
    """As many processes as there are jobs running in one; idle ones are used again."""

    def __init__(self) -> None:
        self._threads = DaemonThreadPool()
        self._all: set[ChildProcess] = set()
        self._idle: list[ChildProcess] = []

    async def run(self, job: PerformJob, label: Mapping[str, Any], take: Take) -> JobAnswer:
        """Return the process's answer. On cancellation the process is killed, with all that it started.

        :param label: which job it is, for what the process prints and logs.
        :param take: is called, in the event loop, with what the function tells.
        :raises ProcessError: there is no answer.
        """
        request = encode_frame(job)
        process = self._take_idle() or await self._start()
        answer = await process.perform(request, label, take)
        if process.alive:
            self._idle.append(process)
        return answer

    async def aclose(self) -> None:
        """End all processes; the idle ones have a moment to end by themselves."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for process in self._all:
                    group.start_soon(self._threads.run, process.end)
        self._all.clear()
        self._idle.clear()
        self._threads.close()

    def _take_idle(self) -> ChildProcess | None:
        self._all = {process for process in self._all if process.alive}
        while self._idle:
            process = self._idle.pop()
            if process.alive:
                return process
        return None

    async def _start(self) -> ChildProcess:
        start = encode_frame(_start_message())
        with anyio.CancelScope(shield=True):  # it takes milliseconds, and a process without an owner must not stay
            self._idle.append(await self._threads.run(ChildProcess, start))
        process = self._idle.pop()
        self._all.add(process)
        return process


def _start_message() -> StartProcess:
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    named = spec is not None and spec.name != "__main__"
    loggers = {"": logging.getLogger(), **logging.root.manager.loggerDict}
    return StartProcess(
        path=[each for each in sys.path if isinstance(each, str)],
        argv=list(sys.argv),
        main_name=spec.name if spec is not None and named else None,
        main_file=None if named else getattr(main, "__file__", None),
        levels={name: each.level for name, each in loggers.items() if isinstance(each, logging.Logger) and each.level},
        disabled=logging.root.manager.disable,
    )
