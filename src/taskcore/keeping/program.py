"""The keeper process: keeps the leases of a worker whose interpreter stands still, because C code keeps the GIL.

It is a program of its own, run by its path without any package, so that it costs a few megabytes and no processor time
while it is not needed. It looks at the notes of its worker a few times per second. When the worker's thread has not
written there for a while, the process imports what extends leases, and does that.

    worker ── notes: one shared memory ──▶ keeper process     settings, what is in hand, and a beat
           ── a socket pair ────────────▶                     sockets to keep alive; its end: leave

A worker that has died or is stopped keeps nothing: its parent process and its state in the system are looked at before
each extension.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any, Final, NamedTuple

__all__ = ["DATA", "HALF_BYTES", "KEPT", "MAX_LIFELINES", "SETTINGS", "SIZE", "UNSENT", "Layout", "WorkerWatch", "main"]

KEPT: Final = 32  #: where this process writes until when it has kept what is in hand
UNSENT: Final = 64  #: one byte for each socket: whether the worker has written a part of a frame into it
MAX_LIFELINES: Final = 64  #: sockets at most
SETTINGS: Final = 128  #: where the settings are, as JSON, up to a byte that is zero
DATA: Final = 1 << 18  #: where the first half begins
HALF_BYTES: Final = 1 << 24  #: bytes of each half; only what is written takes memory
SIZE: Final = DATA + 2 * HALF_BYTES

STOPPED: Final = "TtZXx"  #: states in which a worker counts as gone


class Layout(NamedTuple):
    """The head of the notes. All times are the system's monotonic clock, which processes share.

    :param beat: when the worker's thread was last awake.
    :param since: since when the event loop has stood still; the time of the beat if it turns.
    :param ends: until when all leases in hand last at least; 0 if nothing is in hand.
    :param noted: when jobs were last received.
    :param kept: when this process last extended them.
    :param half: which half is valid.
    :param ends_of_halves: the number of its bytes that are valid.
    """

    beat: float
    since: float
    ends: float
    noted: float
    kept: float
    half: int
    size_0: int
    size_1: int

    @classmethod
    def read(cls, data: Any) -> Layout:
        """Read the head."""
        return cls(*HEAD_LAYOUT.unpack_from(data))


HEAD_LAYOUT: Final = struct.Struct("<5d3Q")


class WorkerWatch:
    """One worker, watched.

    :ivar settings: see :class:`taskcore.keeping.keeper_process.KeeperProcess`.
    """

    def __init__(self, line: socket.socket, notes: int, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.lease: float = settings["lease"]
        self._worker: int = settings["worker"]
        self._line = line
        self._notes = notes
        self._pulse = bytes.fromhex(settings["pulse"])
        self._lifelines: list[socket.socket] = []
        self._pulsed = 0.0
        self._gave_up = 0.0  # at which beat

    def run(self) -> None:
        """WorkerWatch until the worker is gone."""
        while True:
            self.attend(self.settings["tick"])
            if self.is_needed():
                self.pulse()
                sys.path[:] = self.settings["path"]
                from taskcore.keeping.extending import keep  # noqa: PLC0415 - it costs too much to have it always

                keep(self)

    def attend(self, seconds: float) -> None:
        """Wait for that time; take sockets meanwhile; end this process if the worker has ended."""
        ready, _, _ = select.select([self._line], [], [], seconds)
        if ready:
            data, descriptors, _, _ = socket.recv_fds(self._line, 1024, MAX_LIFELINES)
            for lifeline in self._lifelines:
                lifeline.close()
            self._lifelines = [socket.socket(fileno=number) for number in descriptors]
            if not data:
                os._exit(0)
        if os.getppid() != self._worker:
            os._exit(0)

    def is_needed(self) -> bool:
        """Tell whether something is in hand and the worker is silent, and may be so."""
        head, now = self.head(), time.monotonic()
        if now - head.beat < self.settings["patience"] or head.beat == self._gave_up:
            return False
        ends = max(head.ends or (head.noted and head.noted + self.lease), head.kept and head.kept + self.lease)
        return now < ends

    def head(self) -> Layout:
        """Read the head of the notes."""
        return Layout.read(os.pread(self._notes, HEAD_LAYOUT.size, 0))

    def notes(self) -> bytes:
        """Read what is noted."""
        head = self.head()
        return os.pread(self._notes, (head.size_0, head.size_1)[head.half], DATA + head.half * HALF_BYTES)

    def kept(self, at: float) -> None:
        """Tell the worker that all it has in hand was extended at that time."""
        os.pwrite(self._notes, struct.pack("<d", at), KEPT)

    def give_up(self) -> None:
        """Keep nothing until the worker beats again."""
        self._gave_up = self.head().beat

    def pulse(self) -> None:
        """Write into the sockets that are lost if nothing is; not where the worker has written a part of a frame."""
        now = time.monotonic()
        if not self._lifelines or self.is_stopped() or now < self._pulsed + self.settings["pause"]:
            return
        self._pulsed = now
        unsent = os.pread(self._notes, MAX_LIFELINES, UNSENT)
        for lifeline, is_unsent in zip(self._lifelines, unsent, strict=False):
            if not is_unsent:
                with suppress(OSError):  # the server has closed it, or does not read
                    lifeline.send(self._pulse, getattr(socket, "MSG_DONTWAIT", 0))
        if not self.settings["backend"]:
            self.kept(now)

    def is_stopped(self) -> bool:
        """Tell whether the worker is stopped or dead, by the state that its process has for the system."""
        try:
            with open(f"/proc/{self._worker}/stat", "rb") as file:  # noqa: PTH123 - this program imports little
                state = file.read().rpartition(b")")[2].split()[0].decode()
        except FileNotFoundError:
            if os.path.isdir("/proc/self"):  # noqa: PTH112 - as above
                return True
            command = ["ps", "-o", "state=", "-p", str(self._worker)]
            state = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "X"  # noqa: S603
        return state[0] in STOPPED


def main(line: int, notes: int) -> None:
    """WorkerWatch the worker at the other end of a socket."""
    settings = os.pread(notes, DATA - SETTINGS, SETTINGS).partition(b"\0")[0]
    WorkerWatch(socket.socket(fileno=line), notes, json.loads(settings)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
