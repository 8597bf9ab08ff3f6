"""Errors of user code as text: bounded, and safe even when the error's own methods and classes fail.

An error may answer anything: ``__str__`` raises, ``__module__`` is None, ``__traceback__`` is a
number, a text is a subclass of ``str`` with methods of its own. So classes and tracebacks are read by the descriptors
of ``type`` and ``BaseException``, each text becomes a plain ``str``, and what fails all the same becomes a note.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from itertools import islice
from types import TracebackType
from typing import Any

from taskcore.envelope import ErrorRecord
from taskcore.errors import TaskcoreError
from taskcore.toolkit.groups import leaves_of, members_of

__all__ = ["MESSAGE_LIMIT", "TRACEBACK_LIMIT", "describe"]

MESSAGE_LIMIT = 2_000  #: characters of a message
TRACEBACK_LIMIT = 8_000  #: characters of a traceback; its end is kept, where the error is
MOST_FRAMES = 20  #: of a traceback
MOST_ERRORS = 500  #: causes and members of groups that are formatted; groups can hold one another many times over
OURS = "taskcore"

_name_of = type.__dict__["__qualname__"].__get__
_module_of = type.__dict__["__module__"].__get__
_traceback_of = BaseException.__dict__["__traceback__"].__get__
_cause_of = BaseException.__dict__["__cause__"].__get__
_context_of = BaseException.__dict__["__context__"].__get__


def describe(
    error: BaseException, *, when: float, worker: str, attempt: int, whole: BaseException | None = None
) -> ErrorRecord:
    """Describe an error for the trail; never raises, whatever the error's own methods do.

    An error of ours is described without the values of arguments and results.

    :param whole: the exception group that the error came in: the traceback shows all of it.
    """
    error, whole = _without_values(error, error if whole is None else whole)
    return ErrorRecord(
        type=_shorten(type_name(error), MESSAGE_LIMIT),
        message=_shorten(message_of(error), MESSAGE_LIMIT),
        when=when,
        worker=worker,
        attempt=attempt,
        where=place_of(error) or place_of(whole),
        traceback=trace_of(whole),
    )


def _without_values(error: BaseException, whole: BaseException) -> tuple[BaseException, BaseException]:
    """Return what can be described: of a group whose traceback would show values, only the error itself."""
    shown = error
    if issubclass(type(error), TaskcoreError):
        shown = _read(TaskcoreError.public, error) or error
    if whole is error or any(map(_holds_values, leaves_of(whole))):
        return shown, shown
    return shown, whole


def _holds_values(error: BaseException) -> bool:
    return issubclass(type(error), TaskcoreError) and error.facts != error.public_facts  # type: ignore[attr-defined]


def type_name(error: BaseException) -> str:
    """Name the error's class, with its module unless that is Python's, the program's or ours."""
    kind = type(error)
    name, module = _plain(_name_of(kind)), _plain(_read(_module_of, kind))
    return name if module.partition(".")[0] in ("", "builtins", "__main__", "__mp_main__", OURS) else f"{module}.{name}"


def message_of(error: BaseException) -> str:
    """Get the error's text, or a note why there is none."""
    try:
        if issubclass(type(error), TaskcoreError):
            return "; ".join((f"[{error.code}] {error.what}", *error.facts))  # type: ignore[attr-defined]  # as it says
        return _plain(str(error))
    except BaseException as second:  # noqa: BLE001 - a broken __str__ is the user's; the job must go on
        return f"<no text: __str__ raised {type_name(second)}>"


def place_of(error: BaseException) -> str:
    """Find the innermost place that is not in this library: file, line, function; that of its cause if it has none."""
    place = ""
    for each in (error, _cause_of(error)):
        trace: TracebackType | None = None if each is None or place else _traceback_of(each)
        while trace is not None:
            code = trace.tb_frame.f_code
            module = _plain(trace.tb_frame.f_globals.get("__name__"))
            if module.partition(".")[0] != OURS:
                place = f"{_short_path(code.co_filename)}:{trace.tb_lineno} in {code.co_name}"
            trace = trace.tb_next
    return _shorten(place, MESSAGE_LIMIT)


def _short_path(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])


def trace_of(error: BaseException) -> str:
    """Format the traceback; its end, if it is long."""
    trace = _traceback_of(error)
    try:
        if _is_small(error):
            text = "".join(traceback.format_exception(type(error), error, trace, limit=-MOST_FRAMES))
            return _clean(_plain(text)[-TRACEBACK_LIMIT:])
    except BaseException:  # noqa: BLE001, S110 - formatting runs the error's own code; the frames alone do not
        pass
    frames = _read(lambda trace: "".join(traceback.format_tb(trace, -MOST_FRAMES)), trace)
    text = f"{_plain(frames)}{type_name(error)}: {_shorten(message_of(error), MESSAGE_LIMIT)}"
    return _clean(text[-TRACEBACK_LIMIT:])


def _is_small(error: BaseException) -> bool:
    """Tell whether so few errors belong to this one that all of them can be formatted: members, causes, contexts."""
    waiting, seen = [error], {id(error)}
    for _ in range(MOST_ERRORS):
        if not waiting:
            return True
        each = waiting.pop()
        if issubclass(type(each), BaseExceptionGroup):
            waiting.extend(islice(members_of(each), MOST_ERRORS))
        for linked in (_cause_of(each), _context_of(each)):
            if linked is not None and id(linked) not in seen:
                seen.add(id(linked))
                waiting.append(linked)
    return False


def _read(read: Callable[[Any], Any], of: Any) -> Any:
    """Read something that may raise; None if it does."""
    try:
        return read(of)
    except BaseException:  # noqa: BLE001 - the error's own code
        return None


def _plain(text: object) -> str:
    """Return the text as a plain ``str``: a subclass may bring methods of its own. What is no text is empty."""
    return str.__str__(text) if issubclass(type(text), str) else ""  # pyright: ignore[reportArgumentType]


def _shorten(text: str, limit: int) -> str:
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return _clean(text)


def _clean(text: str) -> str:
    """Replace lone surrogates, which cannot be encoded."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
