"""Answers of JetStream's API: what is there, what is not, and what nobody can say at the moment.

The difference matters: a stream without a leader answers with an error too, and whoever took that for "not there" would
forget jobs and records that exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from taskcore.errors import BrokerUnavailable

__all__ = ["NO_CONSUMER", "NO_MESSAGE", "NO_STREAM", "error_of", "must_be", "stored_in"]

NO_STREAM, NO_CONSUMER, NO_MESSAGE = 10059, 10014, 10037


def error_of(answer: Mapping[str, Any]) -> int:
    """The code of an answer's error; 0 if there is none."""
    error = answer.get("error")
    return int(error.get("err_code") or error.get("code") or 1) if isinstance(error, Mapping) else 0


def must_be(answer: Mapping[str, Any], *allowed: int) -> Mapping[str, Any]:
    """The answer, if it has no error but one of these.

    :raises BrokerUnavailable: it has another one.
    """
    code = error_of(answer)
    if code and code not in allowed:
        raise BrokerUnavailable(
            "NATS cannot say at the moment what is there",
            facts=[f"{answer['error'].get('description')} ({code})"],
            fix="try again; see its log if that goes on",
        )
    return answer


def stored_in(answer: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a stream has stored; None if surely nothing.

    :raises BrokerUnavailable: it cannot say.
    """
    found: Mapping[str, Any] | None = must_be(answer, NO_MESSAGE, NO_STREAM).get("message")
    return found
