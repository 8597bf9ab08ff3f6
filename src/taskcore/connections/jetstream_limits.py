"""Limits of an account or of a server, as JetStream tells them: what is refused until there is room; the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taskcore.errors import BrokerUnavailable

__all__ = ["LimitReached", "refused", "way_out"]

STORAGE: Final = (
    "let workers empty the queues, drop dead letters, or raise the storage limit of the account or the server"
)
WAYS_OUT: Final[Mapping[int, str]] = {
    10002: STORAGE,
    10023: STORAGE,
    10026: "raise max_consumers of the account, or delete consumers that nothing uses",
    10027: "raise max_streams of the account, or delete streams that nothing uses; each queue has one or two",
    10028: "leave ?storage=memory out, or raise the memory limit of the account or the server (max_mem)",
    10047: STORAGE,
    10077: "let workers empty the queue, drop its dead letters, or raise max_bytes: nats stream edit",
    10113: "say how much a queue may hold in the URL: ?max_bytes=1GiB",
    10120: "give the account limits for JetStream",
    10122: "a smaller ?max_bytes= in the URL, or raise max_stream_bytes of the account",
}


class LimitReached(BrokerUnavailable):
    """JetStream makes no stream and no consumer for lack of room; nothing was done."""


def way_out(code: int) -> str:
    """Return what to do about an error of JetStream that is a limit; empty for any other."""
    return WAYS_OUT.get(code, "")


def refused(name: str, error: Mapping[str, Any], code: int) -> BrokerUnavailable:
    """Make the error about a request to JetStream's API that was answered with one."""
    says, fix = f"{error.get('description')} ({code})", way_out(code)
    if fix:
        return LimitReached(f"JetStream refused {name}: {says}", fix=fix)
    return BrokerUnavailable(
        f"JetStream refused {name}",
        facts=[says],
        fix="try again; if it goes on, read the server's log, and see what the account may do",
    )
