"""Clocks of instances: each writes its time into the store now and then, and one that is ahead is found out.

    schedules/clock   the time of the instance that wrote it last; instances watch it
    schedules/ahead   instances that were ahead of another one, for ten minutes; ``taskcore doctor`` reports them

A time that comes from the future is a proof: its sender is ahead by at least that much. One from the past proves
nothing, because the message may have been late. So each pair finds out from the side that is behind.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio
import msgspec

from taskcore.errors import TaskcoreError
from taskcore.store import ANY, Store
from taskcore.toolkit.logging import logger

__all__ = ["ClockCheck", "ClockDifference", "clock_differences", "fires_somewhere"]

log = logger("taskcore.schedules")

CLOCK_RECORD, AHEAD_RECORD = "schedules/clock", "schedules/ahead"  #: names of records
WRITE_EVERY = 60.0  #: seconds between two times of one instance
SMALLEST_DIFFERENCE = 500  #: milliseconds of difference
DIFFERENCE_KEPT = 600.0  #: seconds for which a difference is remembered
RETRY_PAUSE = 5.0  #: seconds until a store that cannot be reached is tried again


class ClockNote(msgspec.Struct, frozen=True):
    """What time it is, in milliseconds, by the clock of an instance."""

    instance: str
    at: int


class ClockDifference(msgspec.Struct, frozen=True):
    """An instance whose clock is ahead of another one's.

    :param ahead, behind: the instances.
    :param seconds: by at least how much.
    """

    ahead: str
    behind: str
    seconds: float


_decode_note = msgspec.json.Decoder(ClockNote).decode
_decode_ahead = msgspec.json.Decoder(dict[str, ClockDifference]).decode
_encode = msgspec.json.Encoder().encode


class ClockCheck:
    """Writes the time of one instance, and compares it with what others write.

    :param now: milliseconds since the epoch, by this instance's clock.
    """

    def __init__(self, store: Store, instance: str, now: Callable[[], int]) -> None:
        self._store = store
        self._instance = instance
        self._now = now
        self._known: dict[str, float] = {}

    async def write(self) -> None:
        """Write the time until cancelled."""
        while True:
            try:
                value = _encode(ClockNote(self._instance, self._now()))
                await self._store.put(CLOCK_RECORD, value, expect=ANY, keep=DIFFERENCE_KEPT)
            except TaskcoreError as error:
                log.debug("the time of this instance is not written: %s", error)
            await anyio.sleep(WRITE_EVERY)

    async def compare(self) -> None:
        """Compare what others write until cancelled."""
        while True:
            try:
                async with self._store.watch(CLOCK_RECORD) as records:
                    async for record in records:
                        await self._compare(_decode_note(record.value))
            except (TaskcoreError, msgspec.MsgspecError) as error:
                log.debug("clocks are not compared: %s", error)
            await anyio.sleep(RETRY_PAUSE)

    async def _compare(self, note: ClockNote) -> None:
        seconds = round((note.at - self._now()) / 1000, 1)
        if (
            note.instance == self._instance
            or seconds * 1000 < SMALLEST_DIFFERENCE
            or self._known.get(note.instance) == seconds
        ):
            return
        self._known[note.instance] = seconds
        log.warning(
            "the clock of %s is ahead of this one by %.1f s, so it fires schedules early; synchronise the clocks",
            note.instance, seconds,
        )  # fmt: skip
        found = await self._store.get(AHEAD_RECORD)
        known = {} if found is None else _decode_ahead(found.value)
        known[note.instance] = ClockDifference(note.instance, self._instance, seconds)
        await self._store.put(AHEAD_RECORD, _encode(known), expect=ANY, keep=DIFFERENCE_KEPT)


async def fires_somewhere(store: Store) -> bool:
    """Tell whether an instance that fires schedules has written its time within the last ten minutes."""
    return await store.get(CLOCK_RECORD) is not None


async def clock_differences(store: Store) -> list[ClockDifference]:
    """Read which instances were ahead of others within the last ten minutes."""
    found = await store.get(AHEAD_RECORD)
    try:
        return [] if found is None else list(_decode_ahead(found.value).values())
    except msgspec.MsgspecError:
        return []
