"""Final: what is left when everything is quiet, as data for the checker.

    snapshot = await collect(harness, [queue], [job.id for job in jobs])

It asks the broker and the store themselves, with the verbs of a store and the admin's look-ups: neither worker nor
client has a say in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from taskcore.backend import Admin, Backend, Letter
from taskcore.conformance.checking.recorder import digest, job_of
from taskcore.envelope import decode_trail
from taskcore.errors import MalformedEnvelope
from taskcore.records.names import outcome_name
from taskcore.store import Store
from taskcore.testing.history import error_text

if TYPE_CHECKING:
    from taskcore.app import App
    from taskcore.conformance.harness import Harness

__all__ = ["FoundLetter", "Left", "Snapshot", "collect"]

LETTER_PAGE = 500  #: letters fetched at a time


class Left(msgspec.Struct, frozen=True):
    """What is left in one queue, by job id.

    :param unnamed: jobs that are there by count and could not be named, because the broker cannot look them up.
    """

    ready: frozenset[str] = frozenset()
    scheduled: frozenset[str] = frozenset()
    leased: frozenset[str] = frozenset()
    dead: frozenset[str] = frozenset()
    unnamed: int = 0


class FoundLetter(msgspec.Struct, frozen=True):
    """One dead letter as it was found.

    :param envelope: digest of its envelope's bytes, as ``trail`` is of its trail's.
    :param errors: as text, in the order of the trail; None if the trail cannot be read.
    """

    id: str
    job: str
    envelope: str
    trail: str
    reason: str
    errors: tuple[str, ...] | None = ()
    attempts: int = 0
    crashes: int = 0


class Snapshot(msgspec.Struct, frozen=True):
    """What is left when everything is quiet.

    :param queues: by name.
    :param outcomes: job id → ``succeeded``, ``dead``, ``cancelled`` or ``expired``, as far as the store remembers.
    :param results: job id → digest of its result, of those that succeeded.
    :param letters: every dead letter of the queues.
    """

    queues: Mapping[str, Left] = {}
    outcomes: Mapping[str, str] = {}
    letters: tuple[FoundLetter, ...] = ()
    results: Mapping[str, str] = {}


async def collect(place: Harness | App, queues: Iterable[str], job_ids: Iterable[str]) -> Snapshot:
    """Look for these jobs everywhere, and for whatever else is in these queues.

    :param place: a harness, or an open app.
    :raises BrokerUnavailable: heal the faults first.
    """
    backend, store = await _connections(place)
    ids = sorted(set(job_ids))
    left: dict[str, Left] = {}
    letters: list[FoundLetter] = []
    for queue in sorted(set(queues)):
        found = await _letters(backend.admin, queue)
        letters += found
        left[queue] = await _left(backend, queue, ids, found)
    outcomes = {job: outcome for job in ids if (outcome := await _outcome(store, job)) is not None}
    return Snapshot(
        left,
        {job: outcome.state for job, outcome in outcomes.items()},
        tuple(letters),
        {job: digest(bytes(one.result)) for job, one in outcomes.items() if one.state == "succeeded"},
    )


async def _connections(place: Harness | App) -> tuple[Backend, Store | None]:
    parts: Any = getattr(place, "components", None)
    if parts is not None:
        return parts.backend, parts.store
    harness: Any = place
    return await harness.backend(), await harness.store() if harness.has_store else None


async def _letters(admin: Admin, queue: str) -> list[FoundLetter]:
    found: list[FoundLetter] = []
    after: str | None = None
    while page := await admin.letters(queue, limit=LETTER_PAGE, after=after):
        found += [_open(letter) for letter in page]
        after = page[-1].id
    return found


def _open(letter: Letter) -> FoundLetter:
    try:
        trail = decode_trail(letter.trail)
    except MalformedEnvelope:
        trail = None
    return FoundLetter(
        id=letter.id,
        job=job_of(letter.envelope),
        envelope=digest(letter.envelope),
        trail=digest(letter.trail),
        reason=letter.reason,
        errors=None if trail is None else tuple(error_text(error.type, error.message) for error in trail.errors),
        attempts=0 if trail is None else trail.attempts,
        crashes=0 if trail is None else trail.crashes,
    )


async def _left(backend: Backend, queue: str, ids: list[str], letters: list[FoundLetter]) -> Left:
    places: dict[str, set[str]] = {"ready": set(), "scheduled": set(), "leased": set()}
    if backend.features.locate != "absent":
        for job in ids:
            place = await backend.admin.locate(queue, job)
            if place is not None:
                places[place].add(job)
    [stats] = await backend.admin.stats([queue])
    named = sum(len(jobs) for jobs in places.values())
    return Left(
        ready=frozenset(places["ready"]),
        scheduled=frozenset(places["scheduled"]),
        leased=frozenset(places["leased"]),
        dead=frozenset(letter.job for letter in letters),
        unnamed=max(stats.unfinished - named, 0),
    )


class _Outcome(msgspec.Struct):
    state: str
    result: msgspec.Raw = msgspec.Raw()


_read = msgspec.json.Decoder(_Outcome).decode


async def _outcome(store: Store | None, job: str) -> _Outcome | None:
    record = None if store is None else await store.get(outcome_name(job))
    return None if record is None else _read(record.value)
