"""The keeper process of a worker, as the worker sees it: started with the first job, told what is in hand."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from taskcore.backend import Delivery, Source
from taskcore.keeping import program
from taskcore.keeping.notes import KeyNote, Note, Notes
from taskcore.keeping.seam import HasLifelines, IssuesTickets, LendsExtenders, Lifeline, MadeOfURL
from taskcore.records.keys import Acquired
from taskcore.toolkit.logging import logger
from taskcore.worker.execution import ENDED, RECEIVED, STARTED, Execution

__all__ = ["KeeperProcess", "KeepingTimes", "innermost"]

log = logger("taskcore.worker")

NAMED_JOBS = 5  #: jobs that are named
NOTED_ENVELOPE_BYTES = 4096  #: bytes of an envelope that is noted

_encode_claim = msgspec.json.Encoder().encode


class KeepingTimes(NamedTuple):
    """The times of a keeper, in seconds.

    :param patience: after which a worker that does not beat stands still.
    :param tick: between two looks.
    """

    lease: float
    max_block: float
    patience: float
    tick: float


class KeeperProcess:
    """Tells the keeper process what is in hand. Its verbs are for the event loop, but for ``beat`` and ``kept_at``."""

    def __init__(self, backend: Any, store: Any, times: KeepingTimes) -> None:
        self._backend, self._store = backend, store
        self._times = times
        self._notes: Notes | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._lifelines: Sequence[Lifeline] = ()
        self._lives = backend if isinstance(backend, HasLifelines) else None
        self._failed = False
        #: Whether there is something that it can do.
        self.is_useful = hasattr(socket, "send_fds") and (
            self._lives is not None or (isinstance(backend, LendsExtenders) and isinstance(backend, MadeOfURL))
        )

    # ── what is in hand ──

    def note(self, jobs: Sequence[Execution]) -> None:
        """Note jobs that were received, before one of them can stop everything."""
        notes = self._notes or self._start()
        if notes is None:
            return
        if self._lives is not None:
            self._pass_lifelines(notes, self._lives.lifelines())
        few = jobs if len(jobs) <= NAMED_JOBS else ()
        envelopes = [job.delivery.envelope for job in few if len(job.delivery.envelope) < NOTED_ENVELOPE_BYTES]
        notes.add(Note(_tickets(jobs), envelopes=envelopes))

    def note_key(self, key: Acquired) -> None:
        """Note a key that was acquired."""
        if self._notes is not None:
            self._notes.add(Note(keys=[_key_note(key)]))

    def note_all(self, jobs: Collection[Execution], keys: Sequence[Acquired]) -> None:
        """Note everything that is in hand, in place of all that was noted."""
        if self._notes is None:
            return
        busy = islice((job for job in jobs if job.state in (RECEIVED, STARTED)), NAMED_JOBS)  # one may start
        names = [f"{facts['job_id']} ({facts['task']})" for facts in (job.labels for job in busy)]
        if not self._notes.replace(Note(_tickets(jobs), list(map(_key_note, keys)), names)) and not self._failed:
            self._failed = True
            log.warning("%d jobs in hand are too many for the keeper process; it does not know all", len(jobs))

    def beat(self, since: float, ends: float) -> None:
        """Say that threads run; see :class:`taskcore.keeping.program.Layout`."""
        if (notes := self._notes) is not None:
            notes.beat(time.monotonic(), since, ends)

    @property
    def kept(self) -> float:
        """When it last extended what is in hand, by the monotonic clock; 0 if it never did."""
        notes = self._notes
        return 0.0 if notes is None else notes.kept

    # ── the process ──

    def _start(self) -> Notes | None:
        """Start the process; a worker whose system refuses that goes on without."""
        if self._failed or not self.is_useful:
            return None
        ours, theirs = socket.socketpair()
        notes = Notes(json.dumps(self._settings()).encode())
        command = [sys.executable, "-I", "-S", program.__file__, str(theirs.fileno()), str(notes.descriptor)]
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with a program of our own
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), notes.descriptor],
                start_new_session=True,  # a terminal's Ctrl-C is for the worker, which may take its time to stop
            )
        except OSError as error:
            self._failed = True
            ours.close()
            notes.close()
            log.warning("no keeper process can be started, so C code that keeps the GIL loses leases: %s", error)
            return None
        finally:
            theirs.close()
        notes.beat(time.monotonic(), time.monotonic(), 0.0)
        self._line, self._notes = ours, notes
        return notes

    def _settings(self) -> dict[str, Any]:
        backend, lives = self._backend, self._lives
        return {
            **self._times._asdict(),
            "worker": os.getpid(),
            "path": sys.path,
            "backend": None if lives is not None else _recipe(backend),
            "store": _recipe(self._store) if isinstance(self._store, MadeOfURL) else None,
            "pulse": "" if lives is None else lives.pulse.hex(),
            "pause": self._times.patience / 2,
        }

    def _pass_lifelines(self, notes: Notes, lifelines: Sequence[Lifeline]) -> None:
        """Give the process the sockets that are lost if nothing is written into them."""
        if lifelines == self._lifelines or self._line is None:
            return
        self._lifelines = lifelines = lifelines[: program.MAX_LIFELINES]
        for index, lifeline in enumerate(lifelines):
            lifeline.unsent = notes.unsent[index : index + 1]
        with suppress(OSError):  # it has died
            socket.send_fds(self._line, [b"+"], [lifeline.socket.fileno() for lifeline in lifelines])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._line is not None:
            self._line.close()
        for lifeline in self._lifelines:
            lifeline.unsent = bytearray(1)
        if self._notes is not None:
            self._notes.close()
        self._process = self._line = self._notes = None
        self._lifelines = ()


def _tickets(jobs: Collection[Execution]) -> list[bytes]:
    """Collect the tickets of these leases; where the lease is the connection they say nothing."""
    issue: dict[Source, Callable[[Delivery], bytes | None]] = {}
    found: list[bytes] = []
    for job in jobs:
        source = job.source
        if source not in issue:
            inner = innermost(source)
            issue[source] = inner.ticket if isinstance(inner, IssuesTickets) else lambda _: None
        if job.state <= ENDED and (ticket := issue[source](job.delivery)):
            found.append(ticket)
    return found


def _key_note(key: Acquired) -> KeyNote:
    return KeyNote(key.name, _encode_claim(key.claim), key.version, key.window, key.keep)


def _recipe(adapter: MadeOfURL) -> list[str]:
    return [type(adapter).__module__, type(adapter).__qualname__, adapter.url]


def innermost(part: Any) -> Any:
    """Look through the wrappers that report or record: the verbs of the seam are none of theirs."""
    while (inner := getattr(part, "inner", None)) is not None:
        part = inner
    return part
