"""The log of ``taskcore worker``: text for people, or one JSON object a line for programs.

Both write one line for one call, whatever an id, a name or an error holds. A traceback follows its line: indented in
text, a field in JSON.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import msgspec

from taskcore.cli.output import is_terminal
from taskcore.toolkit.logging import visible

__all__ = ["LogFormat", "configure_logging"]

LogFormat: TypeAlias = Literal["text", "json"]

#: Loggers of client libraries: their debug lines show each frame and each byte, which is not what an operator asks for.
LIBRARIES = ("aio_pika", "aiormq", "anyio", "asyncio", "nats", "psycopg", "redis", "sqlite3")


JOB_FACTS = ("job_id", "task", "queue", "attempt", "correlation_id")


def configure_logging(level: str, form: LogFormat = "text") -> None:
    """Log to stderr. An app that has configured the root logger is left alone.

    The level holds for the app and for taskcore; the client libraries log nothing below ``info``.
    """
    stream = sys.stderr
    if stream is None or logging.getLogger().handlers:  # without standard error there is nowhere to write to
        return
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter(for_person=is_terminal(stream)))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level.upper())
    if root.level < logging.INFO:
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(logging.INFO)


class TextFormatter(logging.Formatter):
    """Short lines for a person at a terminal, complete ones for a file."""

    def __init__(self, *, for_person: bool) -> None:
        if for_person:
            text, dates = "%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"
        else:
            text, dates = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
        super().__init__(text, dates)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is the standard library's
        """Write the line of a record."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - as above
        """Write a traceback, indented: none of its lines looks like a line of the log."""
        return "\n".join(f"    {visible(line)}" for line in super().formatException(ei).splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and of which job it tells, if that is known."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_job_of(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def _job_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the facts of the job: those of the record, or else of the job that runs where it was logged."""
    from taskcore.worker.context import running

    source: object = record if hasattr(record, "job_id") else running.get(None)
    told = ((name, getattr(source, name, None)) for name in JOB_FACTS)
    return {name: value for name, value in told if value is not None}
