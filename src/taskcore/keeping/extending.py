"""What the keeper process does while its worker stands still: it extends leases and keys, and says so."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from typing import Any

import anyio

from taskcore.envelope import decode_envelope
from taskcore.errors import BrokerUnavailable
from taskcore.keeping.notes import Note, read_notes
from taskcore.keeping.program import WorkerWatch
from taskcore.keeping.seam import Extender
from taskcore.records.keys import Acquired, IdempotencyKeys, decode_key_record

__all__ = ["keep"]

NAMED_JOBS = 5  #: jobs that are named: those that run, then those that were received first


def keep(watch: WorkerWatch) -> None:
    """Extend what the worker has in hand until it beats again, or has to let go."""
    anyio.run(_Meanwhile(watch).run)


class _Meanwhile:
    """One time in which the worker stands still."""

    def __init__(self, watch: WorkerWatch) -> None:
        self._watch = watch
        self._note = read_notes(watch.notes())  # nothing changes while the worker stands still
        self._extender: Extender | None = None
        self._keys: IdempotencyKeys | None = None
        self._extended = 0.0
        self._failed = False

    async def run(self) -> None:
        """Extend until the worker beats again, or has to let go."""
        watch = self._watch
        async with anyio.create_task_group() as group, AsyncExitStack() as opened:
            group.start_soon(self._look_after_sockets)
            max_block: float = watch.settings["max_block"]
            self._say(
                f"{self._stillness()}: C code keeps the GIL. Its leases are kept meanwhile, for up to {max_block:g} s. "
                'Run such code in a process: @app.task(runs_in="process")'
            )
            while watch.is_needed():
                if time.monotonic() - watch.head().since > max_block:
                    self._say(
                        f"{self._stillness()}, longer than max_block={max_block:g} s: its leases are let go, and other "
                        "workers get its jobs"
                    )
                    watch.give_up()
                    break
                await self._extend_if_due(opened)
                await anyio.sleep(watch.settings["tick"])
            group.cancel_scope.cancel()

    async def _look_after_sockets(self) -> None:
        """See whether the worker has ended, and keep its sockets alive, also while a broker does not answer."""
        while True:
            self._watch.attend(0)
            self._watch.pulse()
            await anyio.sleep(self._watch.settings["tick"])

    async def _extend_if_due(self, opened: AsyncExitStack) -> None:
        watch, now = self._watch, time.monotonic()
        if now < self._extended + watch.lease / 3 or watch.is_stopped():
            return
        try:
            await self._open(opened)
            if watch.is_stopped():
                return
            now = time.monotonic()
            if self._extender is not None:
                await self._extender.extend(self._note.tickets)
                watch.kept(now)
            if self._keys is not None:
                await self._keys.renew_many(_acquired(self._note), time.time() + watch.lease)
            self._extended = now
        except BrokerUnavailable as error:
            if not self._failed:
                self._say(f"its leases cannot be extended: {error}")
            self._failed = True

    async def _open(self, opened: AsyncExitStack) -> None:
        """Connect, unless that is done."""
        settings = self._watch.settings
        if settings["backend"] and self._extender is None:
            backend: Any = _make(settings["backend"])
            self._extender = await opened.enter_async_context(backend.extender(lease=self._watch.lease))
        if settings["store"] and self._note.keys and self._keys is None:
            self._keys = IdempotencyKeys(await opened.enter_async_context(_make(settings["store"])))

    def _stillness(self) -> str:
        age = time.monotonic() - self._watch.head().beat
        return f"its interpreter has stood still for {age:.1f} s{_named(self._note)}"

    def _say(self, text: str) -> None:
        """Tell people: the worker's logging cannot be reached."""
        print(f"taskcore: worker process {self._watch.settings['worker']}: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _make(recipe: Sequence[str]) -> Any:
    """Make an adapter: of its class and its URL."""
    module, name, url = recipe
    return getattr(import_module(module), name)(url)


def _acquired(note: Note) -> list[Acquired]:
    return [Acquired(key.name, decode_key_record(key.claim), key.version, key.window, key.keep) for key in note.keys]


def _named(note: Note) -> str:
    names = list(note.running)
    for envelope in note.envelopes:
        try:
            job = decode_envelope(envelope)
        except Exception:  # noqa: BLE001, S112 - it is of another codec, or broken
            continue
        names.append(f"{job.id} ({job.task})")
    shown = ", ".join(list(dict.fromkeys(names))[:NAMED_JOBS])
    return f" with {shown}" if shown else ""
