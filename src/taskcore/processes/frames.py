"""The protocol between a worker and a process that runs its jobs: frames over a socket pair, no input or output here.

    frame     4 bytes: the length of the body, big endian │ body: one message as MessagePack

    worker → process   StartProcess   once, before everything else
                       PerformJob     one job; the next one follows its answer
                       ReportBegun    the answer to BeginReport
    process → worker   LogLine        any number, at any time
                       BeginReport    before the job's first progress or log line; it waits for the answer
                       ProgressReport the progress and the log lines, any number until the job's answer
                       JobReturned    the answer: the encoded result
                       JobRaised      the answer: the error, as text and as the rule book needs it

Messages are plain data of these types. No class is imported and no code runs because of what a frame says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import msgspec

__all__ = [
    "BeginReport",
    "FrameError",
    "FrameReader",
    "JobAnswer",
    "JobRaised",
    "JobReturned",
    "LogLine",
    "PerformJob",
    "ProgressReport",
    "RaisedKind",
    "ReportBegun",
    "StartProcess",
    "encode_frame",
    "reader_of_answers",
    "reader_of_requests",
]

BODY_LIMIT = 128 * 1024 * 1024  #: bytes of a body; a longer one is refused before it is read
HEAD_BYTES = 4

RaisedKind: TypeAlias = Literal["error", "snooze", "retry_later", "reject", "lease_lost", "unencodable"]
M = TypeVar("M")


class FrameError(Exception):
    """Bytes that are no frame, or a message that is too long for one."""


class StartProcess(msgspec.Struct, frozen=True, tag=True):
    """What a process has to know before its first job.

    :param path, argv: the worker's ``sys.path`` and ``sys.argv``.
    :param main_name, main_file: the worker's main module, by name if it was run by name, else by file.
    :param levels: of the worker's loggers, by name; ``""`` is the root.
    :param disabled: the level up to which the worker's logging is disabled.
    """

    path: list[str]
    argv: list[str]
    main_name: str | None = None
    main_file: str | None = None
    levels: dict[str, int] = {}
    disabled: int = 0


class PerformJob(msgspec.Struct, frozen=True, tag=True):
    """One job: the function by module and name, and what ``current()`` has to tell."""

    module: str
    qualname: str
    envelope: bytes
    trail: bytes
    queue: str
    crashes: int
    fence: int
    holding: bytes


class LogLine(msgspec.Struct, frozen=True, tag=True):
    """A record of the standard library's logging, formatted where it was made."""

    name: str
    level: int
    text: str
    trace: str = ""
    path: str = ""
    line: int = 0
    function: str = ""


class BeginReport(msgspec.Struct, frozen=True, tag=True):
    """The function tells of its progress or its log from now on; or it asks where the last attempt was."""

    resume: bool = False


class ReportBegun(msgspec.Struct, frozen=True, tag=True):
    """The worker is ready.

    :param saved: the record of the last attempt's progress; empty without one.
    :param problem: the error, if what the job tells cannot be kept; ``needs_store`` if that is why.
    """

    saved: bytes = b""
    problem: str = ""
    needs_store: bool = False


class ProgressReport(msgspec.Struct, frozen=True, tag=True):
    """What the function has told since: the record of its progress, if it has changed, and lines with their times."""

    progress: bytes = b""
    lines: list[tuple[float, str]] = []


class JobReturned(msgspec.Struct, frozen=True, tag=True):
    """The function returned, and this is its encoded result."""

    result: bytes


class JobRaised(msgspec.Struct, frozen=True, tag=True):
    """The function raised.

    :param kind: whether the error is one with a meaning of its own.
    :param type_name, message, where, traceback: for the record of the error.
    :param retryable: what the task's policy says of the error's class; None if the task was not found.
    :param declared: the error as the task's contract packs it, if ``raises`` names its class.
    :param after: the seconds of a snooze or of a later retry.
    :param why: the reason of a later retry, of a rejection or of a lost lease.
    """

    kind: RaisedKind
    type_name: str
    message: str
    where: str
    traceback: str
    retryable: bool | None = None
    declared: bytes | None = None
    after: float = 0.0
    why: str = ""


JobAnswer: TypeAlias = JobReturned | JobRaised


def encode_frame(
    message: StartProcess | PerformJob | ReportBegun | LogLine | BeginReport | ProgressReport | JobAnswer,
) -> bytes:
    """Encode the frame of a message.

    :raises FrameError: it is too long.
    """
    body = msgspec.msgpack.encode(message)
    if len(body) > BODY_LIMIT:
        raise FrameError(f"a message of {len(body)} bytes; the limit is {BODY_LIMIT}")
    return len(body).to_bytes(HEAD_BYTES, "big") + body


class FrameReader(Generic[M]):
    """Bytes in any portions to messages; holds the beginning of at most one frame."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[M]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Yield the messages that these bytes complete.

        :raises FrameError: the bytes are no frames; the reader is of no use any more.
        """
        self._buffer += data
        while len(self._buffer) >= HEAD_BYTES:
            length = int.from_bytes(self._buffer[:HEAD_BYTES], "big")
            if length > BODY_LIMIT:
                raise FrameError(f"the head of a frame says {length} bytes; the limit is {BODY_LIMIT}")
            if len(self._buffer) < HEAD_BYTES + length:
                return
            body = bytes(self._buffer[HEAD_BYTES : HEAD_BYTES + length])
            del self._buffer[: HEAD_BYTES + length]
            yield self._decode(body)

    def _decode(self, body: bytes) -> M:
        try:
            return self._decoder.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise FrameError(f"a frame of {len(body)} bytes is not a message: {error}") from None


def reader_of_answers() -> FrameReader[Any]:
    """Make the reader for the worker's end."""
    return FrameReader(msgspec.msgpack.Decoder(LogLine | BeginReport | ProgressReport | JobReturned | JobRaised))


def reader_of_requests() -> FrameReader[Any]:
    """Make the reader for the process's end."""
    return FrameReader(msgspec.msgpack.Decoder(StartProcess | PerformJob | ReportBegun))
