"""What workers and subscribers say to each other in the store. No input or output here.

    worker/<number>    the roster; a subscriber writes into a worker's record that it listens, and to what
    events/<number>    the last events of that worker, numbered, and who listens from which number on

A worker writes its record in the roster at each heartbeat, over the version that it wrote last. Where a subscriber has
written since, that write meets a conflict, which shows the record: so a worker without subscribers reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from taskcore.envelope import check_name
from taskcore.errors import InvalidSetting
from taskcore.observe import EVENT_NAMES
from taskcore.store import record_decoder
from taskcore.toolkit.units import shorten_repr
from taskcore.toolkit.values import PublicValue

__all__ = [
    "FEED_KEPT",
    "Feed",
    "JobEvent",
    "Listed",
    "Wanted",
    "asked_of",
    "decode_feed",
    "decode_listed",
    "encode_feed",
    "feed_name",
    "with_subscriber",
]

FEED_KEPT = 60.0  #: seconds after its last write for which a feed stands
KINDS = tuple(name for name in EVENT_NAMES if name.startswith("job."))


def feed_name(worker: str) -> str:
    """Name the record of a worker's last events, by that of its record in the roster."""
    return f"events/{worker.rpartition('/')[2]}"


class JobEvent(PublicValue, frozen=True, kw_only=True):
    """One thing that happened to a job.

    :param name: as in :mod:`taskcore.observe`, such as ``"job.buried"``.
    :param at: when, in seconds since the epoch, by the worker's clock.
    :param worker: where.
    :param attempt: 1 for the first attempt.
    :param seconds: how long the function ran.
    :param waited: ``job.started``: seconds since the job was sent.
    :param reason: why a job is dead or deferred.
    :param error: type and text of the error, in one line.
    :param missed: how many events of this worker are lost before this one: it told more than a feed has room for.
    """

    name: str
    at: float
    worker: str
    job_id: str = ""
    task: str = ""
    queue: str = ""
    attempt: int | None = None
    seconds: float | None = None
    waited: float | None = None
    reason: str | None = None
    error: str | None = None
    missed: int = 0


class Wanted(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a subscriber listens to; nothing named is everything."""

    kinds: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()

    @classmethod
    def of(cls, kinds: str | Iterable[str] | None, queues: str | Iterable[str] | None) -> Wanted:
        """Check what a caller wants.

        :raises InvalidSetting: there is no such event of a job (TC104).
        """
        named, of_queues = _names("kinds", kinds), _names("queues", queues)
        for name in sorted(named):
            if name not in KINDS:
                from difflib import get_close_matches  # noqa: PLC0415 - for this error only

                close = get_close_matches(name, KINDS, n=1)
                raise InvalidSetting(
                    f"jobs have no event {name!r}",
                    facts=[f"there are: {', '.join(KINDS)}"],
                    fix=f"did you mean {close[0]!r}?" if close else None,
                )
        return cls(named, of_queues)

    def takes(self, name: str, queue: object) -> bool:
        """Tell whether an event is wanted."""
        return (not self.kinds or name in self.kinds) and (not self.queues or queue in self.queues)


def _names(option: str, given: str | Iterable[str] | None) -> frozenset[str]:
    found: frozenset[Any]
    try:
        found = frozenset([given] if isinstance(given, str) else () if given is None else given)
    except TypeError:
        found = frozenset([None])
    if any(not isinstance(one, str) for one in found):
        raise InvalidSetting(
            f"{option}={shorten_repr(given)} is not a list of names", fix=f'for example {option}=["mail"]'
        )
    return found if option == "kinds" else frozenset(check_name("queue", one) for one in found)


class Listed(msgspec.Struct, frozen=True):
    """A worker's record in the roster, as far as subscribers and their worker need it."""

    name: str
    pid: int
    started: float
    seen: float
    events: dict[str, Wanted] = {}

    @property
    def identity(self) -> tuple[str, int, float]:
        """Tells a worker from the next one with its number."""
        return self.name, self.pid, self.started


class Feed(msgspec.Struct, frozen=True):
    """The last events of a worker.

    :param mark: of this feed; another one counts anew.
    :param first: the number of the first event that is here.
    :param subscribers: by their ids, the number of the first event that each may have.
    """

    mark: str
    first: int
    events: list[msgspec.Raw]
    subscribers: dict[str, int]


encode_feed = msgspec.json.Encoder().encode
decode_feed = record_decoder(Feed, "the events of a worker")
_decode_listed = msgspec.json.Decoder(Listed).decode


def decode_listed(data: bytes) -> Listed | None:
    """Decode a worker's record in the roster; None for one that cannot be read."""
    try:
        return _decode_listed(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def with_subscriber(data: bytes, subscriber: str, wanted: Wanted) -> bytes:
    """Write into a worker's record that a subscriber listens."""
    record: dict[str, Any] = msgspec.json.decode(data)
    listeners = dict(record.get("events") or {})
    listeners[subscriber] = msgspec.to_builtins(wanted)
    return msgspec.json.encode({**record, "events": listeners})


def asked_of(data: bytes, identity: tuple[str, int, float]) -> Mapping[str, Wanted] | None:
    """Return who listens to this worker, by what stands in place of its record; None if that is another worker's."""
    listed = decode_listed(data)
    return listed.events if listed is not None and listed.identity == identity else None
