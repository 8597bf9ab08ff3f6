"""The outcomes of a command that was not carried out for sure, and the server's error answers in plain words."""

from __future__ import annotations

from typing import Final

from redis.exceptions import AuthenticationError, RedisError

from taskcore.errors import BrokerUnavailable

__all__ = ["DEMOTED", "CommandRefused", "ReplyLost", "SlotMoving", "error_text", "refused"]

DEMOTED: Final = frozenset({"READONLY", "MASTERDOWN"})  #: the server is not the primary any more: connect anew


class ReplyLost(BrokerUnavailable):
    """A command was sent and no reply came: it was carried out, or it was not.

    :ivar cut: the connection ended before the time was over. A server also ends it if a reply is larger than it sends.
    """

    cut = False


class SlotMoving(BrokerUnavailable):
    """A command was redirected from node to node of a cluster, and none of them accepted it."""


class CommandRefused(BrokerUnavailable):
    """The server refused a command and changed nothing.

    :param kind: the first word of its answer: ``OOM``, ``MISCONF``, ``READONLY``, ``MOVED``, …
    :param says: the answer.
    """

    def __init__(self, what: str, *, kind: str, says: str, fix: str | None = None) -> None:
        super().__init__(what, facts=[says], fix=fix)
        self.kind = kind
        self.says = says


def refused(error: RedisError, shown: str) -> CommandRefused:
    """Translate an error answer of the server at this address."""
    kind = error.status_code or str(error).partition(" ")[0].rstrip(",:")  # redis-py removes the words that it knows
    if isinstance(error, AuthenticationError):  # it has several first words
        kind = "NOAUTH"
    meaning, fix = MEANINGS.get(kind, ("it answered with an error", None))
    return CommandRefused(f"Redis at {shown} refused: {meaning}", kind=kind, says=error_text(error), fix=fix)


def error_text(error: BaseException) -> str:
    """Return the text of an error, or its class if it has none."""
    return str(error).strip() or type(error).__name__


_LOGIN = "correct them in the URL: redis://user:password@host, or redis://:password@host"
_PREFIX = "delete that key, or choose another prefix in the URL: ?prefix=…"

#: First word of an answer → its meaning, and what to do.
MEANINGS: Final[dict[str, tuple[str, str | None]]] = {
    "OOM": ("its memory is full", "give it more memory (maxmemory), or let workers empty the queues"),
    "MISCONF": ("it cannot write to its disk", "free its disk; it then accepts writes again"),
    "READONLY": ("it is a replica, a failover may be under way", None),
    "LOADING": ("it is still reading its data from disk", None),
    "MASTERDOWN": ("it is a replica that has lost its primary", None),
    "NOREPLICAS": ("it has too few replicas to accept writes", None),
    "NOAUTH": ("user name or password are missing or wrong", _LOGIN),
    "NOPERM": ("this user may not do that", "the docs have a recipe for the user's rights (ACL)"),
    "CLUSTERDOWN": ("the cluster is down", None),
    "TRYAGAIN": ("the slot is being moved", None),
    "WRONGTYPE": ("one of our keys holds something that is not ours", _PREFIX),
    "BUSY": ("a script of another client has been running for too long", "SCRIPT KILL, on that server"),
}
