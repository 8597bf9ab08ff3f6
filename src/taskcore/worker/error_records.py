"""Errors of user code as text: bounded, and safe even when the error's own methods fail."""

from __future__ import annotations

import traceback

from taskcore.envelope import ErrorRecord
from taskcore.errors import TaskcoreError

__all__ = ["MESSAGE_LIMIT", "TRACEBACK_LIMIT", "describe"]

MESSAGE_LIMIT = 2_000  #: characters of a message
TRACEBACK_LIMIT = 8_000  #: characters of a traceback; its end is kept, where the error is
OURS = "taskcore"


def describe(error: BaseException, *, when: float, worker: str, attempt: int) -> ErrorRecord:
    """Describe an error for the trail; never raises, whatever the error's own methods do."""
    return ErrorRecord(
        type=_type_name(error),
        message=_shorten(message_of(error), MESSAGE_LIMIT),
        when=when,
        worker=worker,
        attempt=attempt,
        where=place_of(error),
        traceback=trace_of(error),
    )


def _type_name(error: BaseException) -> str:
    kind = type(error)
    known = kind.__module__.partition(".")[0] in ("builtins", "__main__", OURS)
    return kind.__qualname__ if known else f"{kind.__module__}.{kind.__qualname__}"


def message_of(error: BaseException) -> str:
    """Get the error's text, or a note why there is none."""
    if isinstance(error, TaskcoreError):
        return "; ".join((f"[{error.code}] {error.what}", *error.facts))
    try:
        text = str(error)
    except BaseException as second:  # noqa: BLE001 - a broken __str__ is the user's; the job must go on
        return f"<no text: __str__ raised {type(second).__qualname__}>"
    return text


def place_of(error: BaseException) -> str:
    """Find the innermost place that is not in this library: file, line, function."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] != OURS:
            place = f"{_short_path(code.co_filename)}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return place


def _short_path(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])


def trace_of(error: BaseException) -> str:
    """Format the traceback; its end, if it is long."""
    try:
        text = "".join(traceback.format_exception(error, limit=-20))
    except BaseException as second:  # noqa: BLE001 - formatting runs the error's own code
        return f"<no traceback: formatting raised {type(second).__qualname__}>"
    return _clean(text[-TRACEBACK_LIMIT:])


def _shorten(text: str, limit: int) -> str:
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return _clean(text)


def _clean(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
