"""Answers of JetStream's API: what is there, what is not, and what no server can say at the moment.

The difference matters: a stream without a leader answers with an error too, and a caller that took that for "not there"
would forget jobs and records that exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from taskcore.errors import BrokerUnavailable

__all__ = [
    "NO_CONSUMER",
    "NO_MESSAGE",
    "NO_STREAM",
    "broker_time",
    "error_of",
    "stored_in",
    "wall_clock",
    "without_error",
]

NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
NO_MESSAGE: Final = 10037


def error_of(answer: Mapping[str, Any]) -> int:
    """Return the code of an answer's error; 0 if there is none."""
    error = answer.get("error")
    return int(error.get("err_code") or error.get("code") or 1) if isinstance(error, Mapping) else 0


def without_error(answer: Mapping[str, Any], *allowed: int) -> Mapping[str, Any]:
    """Return the answer, if it has no error but one of these.

    :raises BrokerUnavailable: it has another one.
    """
    code = error_of(answer)
    if code and code not in allowed:
        raise BrokerUnavailable(
            "NATS cannot say at the moment what is stored",
            facts=[f"{answer['error'].get('description')} ({code})"],
            fix="try again; read the server's log if it goes on",
        )
    return answer


def stored_in(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the message that a stream has stored; None if it surely has none.

    :raises BrokerUnavailable: the stream cannot say.
    """
    found: Mapping[str, Any] | None = without_error(answer, NO_MESSAGE, NO_STREAM).get("message")
    return found


# ── time ──


def wall_clock() -> float:
    """Return seconds since the epoch by our own clock."""
    return datetime.now(UTC).timestamp()


def broker_time(text: str) -> float:
    """Return a server's time stamp as seconds since the epoch; it has more digits than Python reads."""
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
    return seconds + (float(f"0.{rest}") if rest.isdigit() else 0.0)
